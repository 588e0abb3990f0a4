"""Training crops for fine-tuning, cut from a sample at a fixed size and augmented together with the mask.

The defaults are mild; flips are off unless requested, since left and right differ.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from medvit.records import IGNORED
from medvit.transforms.augmentation.change import CropDraw, apply_change, draw_change
from medvit.transforms.augmentation.options import Augmentation
from medvit.transforms.augmentation.spatial import CropBox
from medvit.transforms.padding import pad_about
from medvit.transforms.preprocess import Normalization
from medvit.types import Sample


class TrainingCrop:
    """Transform that cuts an augmented training crop of a fixed size from a sample, determined by the seed alone.

    If targets are masks, the fraction `foreground` of the crops is centered on a foreground voxel; the others are
    anywhere. The voxel is any foreground voxel; with `by_class`, a class in the image is drawn first, and then a voxel
    of this class (Isensee et al. 2021). Images smaller than the crop are padded as in inference: pixels by their lowest
    value, masks by background.

    Raises:
        ConfigError: If the preprocessing loses the unit that windows or stain require.
    """

    def __init__(
        self,
        config: Augmentation,
        size: tuple[int, ...],
        intensity: Normalization,
        *,
        masks: bool,
        foreground: float = 0.5,
        by_class: bool = False,
    ) -> None:
        self.config, self.size, self.masks = config, size, masks
        self.foreground, self.by_class = foreground, by_class
        self.scale = config.unit_scale(intensity, key="augment")

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Return the augmented crop."""
        padded = self._padded(sample)
        return self.apply(padded, self.draw(padded, np.random.default_rng(seed)))

    def draw(self, sample: Sample, generator: np.random.Generator) -> CropDraw:
        """Draw the position and the augmentation of a crop; the sample must be at least as large as the crop."""
        shape = tuple(sample.pixels.shape[1:])
        room = np.array(shape) - self.size
        start = (generator.random(len(shape)) * (room + 1)).astype(int)
        is_about_foreground, nth = generator.random() < self.foreground, generator.random()
        if self.masks and is_about_foreground and room.any():
            assert sample.target is not None
            voxel = (_voxel_of_class if self.by_class else _foreground_voxel)(sample.target, nth)
            if voxel is not None:
                start = np.clip(np.array(voxel) - np.array(self.size) // 2, 0, room)
        change = draw_change(self.config, generator, ndim=len(shape), channels=sample.pixels.shape[0])
        return CropDraw(CropBox(tuple(start.tolist()), self.size), change)

    def apply(self, sample: Sample, drawn: CropDraw) -> Sample:
        """Return the crop of a sample at the drawn position. The sample must be at least as large as the crop."""
        sampler = drawn.sampler(tuple(sample.pixels.shape[1:]), self.size, sample.spacing)
        pixels = apply_change(sample.pixels, sampler, drawn.change, self.scale).contiguous()
        if not self.masks:
            return replace(sample, pixels=pixels)
        assert sample.target is not None
        return replace(sample, pixels=pixels, target=sampler.labels(sample.target).long())

    def _padded(self, sample: Sample) -> Sample:
        if all(side >= want for side, want in zip(sample.pixels.shape[1:], self.size, strict=True)):
            return sample
        pixels, _ = pad_about(sample.pixels[None], self.size)
        if not self.masks:
            return replace(sample, pixels=pixels[0])
        assert sample.target is not None
        target, _ = pad_about(sample.target[None, None], self.size, value=0.0)
        return replace(sample, pixels=pixels[0], target=target[0, 0])


def _voxel_of_class(mask: Int[Tensor, "*s"], nth: float) -> tuple[int, ...] | None:
    """Return a foreground voxel for a number `nth` from 0 to 1, such that all classes in the mask have equal shares."""
    classes = [label for label in mask.unique().tolist() if label not in (0, IGNORED)]
    if not classes:
        return None
    number, share = divmod(nth * len(classes), 1.0)
    return _voxel_of(mask == classes[int(number)], share)


def _foreground_voxel(mask: Int[Tensor, "*s"], nth: float) -> tuple[int, ...] | None:
    """Return the foreground voxel at a relative position `nth` (0 to 1) in the list of all foreground voxels.

    Ignored voxels are not in the list. The result is None if the list is empty.
    """
    return _voxel_of((mask > 0) & (mask != IGNORED), nth)


def _voxel_of(region: Bool[Tensor, "*s"], nth: float) -> tuple[int, ...] | None:
    is_foreground = region.flatten(1)
    counts = is_foreground.sum(dim=1).cumsum(0)
    number = int(nth * int(counts[-1]))
    if not counts[-1]:
        return None
    plane = int((counts <= number).sum())
    before = int(counts[plane - 1]) if plane else 0
    place = int(is_foreground[plane].nonzero()[number - before])
    return plane, *(int(index) for index in np.unravel_index(place, region.shape[1:]))
