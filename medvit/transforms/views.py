"""Training crops for self-supervision: where to cut is drawn first, then the cut is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from medvit.config import Axis, Config, Count
from medvit.samples import Sample, Views
from medvit.transforms.preprocess import resize

Covered = Annotated[float, Field(gt=0.0, le=1.0)]


class ViewsConfig(Config):
    """The crops an objective wants of each image."""

    size: tuple[Count, ...] = ()
    """Pixels or voxels of a crop, (H, W) or (I, J, K), whole patches; empty fits the images, up to 224
    pixels or 96 voxels a side."""
    scale: tuple[Covered, Covered] = (0.2, 1.0)
    """Smallest and largest share of the image's area or volume that a crop covers."""
    stretch: float = Field(default=4 / 3, ge=1.0)
    """Largest ratio by which one axis of a crop is stretched against another, relative to the image's own shape."""
    flipped_axes: tuple[Axis, ...] = ()
    """Spatial axes along which a crop is flipped half of the time; none by default, since sides mean something."""

    def fitted(self, size: tuple[int, ...]) -> ViewsConfig:
        """The same options with the size filled in, if none was given."""
        return self if self.size else self.model_copy(update={"size": size})


@dataclass(frozen=True)
class Crop:
    """A box in an image, in voxels, and the axes along which it is flipped."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    flipped_axes: tuple[int, ...]


def draw(config: ViewsConfig, shape: Sequence[int], generator: np.random.Generator) -> Crop:
    """A random box in an image of a shape."""
    share = generator.uniform(*config.scale)
    ratios = np.exp(generator.uniform(-0.5, 0.5, len(shape)) * np.log(config.stretch))
    ratios /= np.prod(ratios) ** (1 / len(shape))
    sides = np.minimum(share ** (1 / len(shape)) * ratios, 1.0)
    box = tuple(max(1, round(float(side) * size)) for side, size in zip(sides, shape, strict=True))
    start = tuple(int(generator.integers(0, size - side + 1)) for size, side in zip(shape, box, strict=True))
    flipped = tuple(axis for axis in config.flipped_axes if generator.random() < 0.5)
    return Crop(start, box, flipped)


def cut(pixels: Float[Tensor, "c *s"], crop: Crop, size: tuple[int, ...]) -> Float[Tensor, "c *t"]:
    """The crop of an image, interpolated to a size."""
    region = (slice(None), *(slice(a, a + n) for a, n in zip(crop.start, crop.shape, strict=True)))
    resized = resize(pixels[region], size)
    return resized.flip([axis + 1 for axis in crop.flipped_axes]) if crop.flipped_axes else resized


@dataclass(frozen=True)
class MakeView:
    """One random crop of a sample, a function of the seed alone."""

    config: ViewsConfig

    def __call__(self, sample: Sample, seed: int) -> tuple[Float[Tensor, "c *t"], str]:
        """The crop and the pseudonym of the study it comes from."""
        shape = sample.pixels.shape[1:]
        crop = draw(self.config, shape, np.random.default_rng(seed))
        return cut(sample.pixels, crop, self.config.size), sample.row.study_id


def collate_views(crops: Sequence[tuple[Float[Tensor, "c *s"], str]]) -> Views:
    """One global view of each image: `crops` (1, B, C, *S)."""
    return Views(torch.stack([pixels for pixels, _ in crops])[None], studies=tuple(study for _, study in crops))
