"""Training crops for self-supervision: where to cut is drawn first, then the cut is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from medvit.config import Axis, Config, Count, Positive
from medvit.records import Row
from medvit.transforms.intensity import Change, IntensityAugmentation, UnitScale, apply_change, draw_change
from medvit.transforms.preprocess import Normalization, resize
from medvit.types import Sample, Views

Covered = Annotated[float, Field(gt=0.0, le=1.0)]

LOCAL_SHARE = 96 / 224
"""Side of a local crop against that of a global one, by default (Caron et al., ICCV 2021)."""


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
    """Spatial axes along which a crop is flipped half of the time. None by default, since sides mean something."""

    def fitted(self, size: tuple[int, ...], patch_size: tuple[int, ...]) -> ViewsConfig:
        """Return the same options with the sizes filled in, in whole patches, where none were given."""
        return self if self.size else self.model_copy(update={"size": size})

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        """The options that have a number for each axis, by key."""
        return {"objective.views.size": self.size}


class MultiCropConfig(ViewsConfig):
    """Two global crops of each image for the teacher and the student, and local ones for the student alone."""

    RENAMED: ClassVar[Mapping[str, str]] = {"finer": "upscale"}

    scale: tuple[Covered, Covered] = (0.4, 1.0)
    """Smallest and largest share of the image's area or volume that a global crop covers."""
    num_local: int = Field(default=8, ge=0)
    """Local crops of each image."""
    local_size: tuple[Count, ...] = ()
    """Pixels or voxels of a local crop, whole patches; empty takes 96 for each 224 of a global one."""
    local_scale: tuple[Covered, Covered] = (0.05, 0.4)
    """Smallest and largest share of the image's area or volume that a local crop covers."""
    zoom: tuple[Positive, Positive] | None = None
    """Smallest and largest number of pixels of the image that one pixel of a crop spans, instead of the shares above:
    0.9 to 1.1 keeps the scale of cells (extended-context translation, Zimmermann et al., 2024)."""
    region: tuple[Count, ...] = ()
    """All crops of an image are cut from one random region of this size; empty allows the whole image."""
    upscale: Count = 1
    """Global crops are made a second time with so many times their sides, without blur and noise, for an anchor that
    sees more than the student; objective.gram.upscale sets it. 1 makes none."""
    intensity: IntensityAugmentation = Field(default_factory=IntensityAugmentation)
    across_study: bool = False
    """Half of the local crops come from another image of the same study, where there is one (VET-DINO, 2025); the
    teacher sees one image only."""

    def fitted(self, size: tuple[int, ...], patch_size: tuple[int, ...]) -> MultiCropConfig:
        """Return the same options with the sizes filled in, in whole patches, where none were given."""
        sides = self.size or size
        local = tuple(
            max(1, round(side * LOCAL_SHARE / patch)) * patch for side, patch in zip(sides, patch_size, strict=True)
        )
        return self.model_copy(update={"size": sides, "local_size": self.local_size or local})

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        """The options that have a number for each axis, by key."""
        own = {"objective.views.local_size": self.local_size, "objective.views.region": self.region}
        return {**super().sizes, **own}


@dataclass(frozen=True)
class CropBox:
    """A box in an image, in voxels, and the axes along which it is flipped."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    flipped_axes: tuple[int, ...]


def draw(
    config: ViewsConfig,
    shape: Sequence[int],
    generator: np.random.Generator,
    *,
    scale: tuple[float, float] | None = None,
) -> CropBox:
    """Return a random box in an image of a shape, of a share of it within `scale`, else that of the config."""
    share = generator.uniform(*(scale or config.scale))
    sides = np.minimum(share ** (1 / len(shape)) * _ratios(config.stretch, len(shape), generator), 1.0)
    return _placed(config, shape, sides * np.array(shape), generator)


def draw_at_scale(
    config: MultiCropConfig, shape: Sequence[int], size: tuple[int, ...], generator: np.random.Generator
) -> CropBox:
    """Return a random box in an image that spans `config.zoom` pixels for each pixel of the crop of a size."""
    assert config.zoom is not None
    zoom = generator.uniform(*config.zoom) * _ratios(config.stretch, len(shape), generator)
    return _placed(config, shape, np.minimum(zoom * np.array(size), shape), generator)


def _ratios(stretch: float, ndim: int, generator: np.random.Generator) -> Float[np.ndarray, "n"]:
    ratios = np.exp(generator.uniform(-0.5, 0.5, ndim) * np.log(stretch))
    return np.asarray(ratios / np.prod(ratios) ** (1 / ndim))


def _placed(
    config: ViewsConfig, shape: Sequence[int], sides: Float[np.ndarray, "n"], generator: np.random.Generator
) -> CropBox:
    box = tuple(max(1, round(float(side))) for side in sides)
    start = tuple(int(generator.integers(0, size - side + 1)) for size, side in zip(shape, box, strict=True))
    flipped = tuple(axis for axis in config.flipped_axes if generator.random() < 0.5)
    return CropBox(start, box, flipped)


def cut(pixels: Float[Tensor, "c *s"], crop: CropBox, size: tuple[int, ...]) -> Float[Tensor, "c *t"]:
    """Return the crop of an image, interpolated to a size."""
    resized = resize(pixels[_region(crop.start, crop.shape)], size)
    return resized.flip([axis + 1 for axis in crop.flipped_axes]) if crop.flipped_axes else resized


def _region(start: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(a, a + n) for a, n in zip(start, shape, strict=True)))


@dataclass(frozen=True)
class CropDraw:
    """Parameters of one crop: its place, and how its intensities are changed."""

    crop: CropBox
    change: Change


@dataclass(frozen=True)
class ImageViews:
    """The views of one image: `crops` (V, C, *S), `local` (W, C, *s) if any, pseudonym of the study, what is `said`.

    `fine` (V, C, *t) are the global ones with more pixels, if they are wanted.
    """

    crops: Float[Tensor, "v c *s"]
    local: Float[Tensor, "w c *s"] | None
    study: str
    said: Mapping[str, str] = field(default_factory=dict)
    fine: Float[Tensor, "v c *t"] | None = None


def said_of(row: Row) -> dict[str, str]:
    """Return the labels of an image, and what is known of its modality, side and view."""
    known = {"modality": row.modality, **{key: row.attributes.get(key, "") for key in ("laterality", "view")}}
    return {key: text for key, text in {**known, **row.labels}.items() if text}


class MakeViews:
    """Random views of a sample, a function of the seed alone."""

    def __init__(self, config: ViewsConfig, intensity: Normalization) -> None:
        self.config = config
        self.scale = UnitScale.of(intensity, config.intensity) if isinstance(config, MultiCropConfig) else None

    def __call__(self, sample: Sample, seed: int, other: Sample | None = None) -> ImageViews:
        """Return the views of a sample.

        Every second local crop is of `other`, an image of the same study, if there is one.
        """
        generator = np.random.default_rng(seed)
        config = self.config
        if not isinstance(config, MultiCropConfig):
            crop = draw(config, sample.pixels.shape[1:], generator)
            return ImageViews(
                cut(sample.pixels, crop, config.size)[None], None, sample.row.study_id, said_of(sample.row)
            )
        corner = generator.random(len(config.size))
        images = [_part(image.pixels, config.region, corner) for image in (sample, other or sample)]
        draws = [self._draw(config, images[0], kind, generator) for kind in (0, 1)]
        crops = torch.stack([self._made(images[0], drawn, config.size) for drawn in draws])
        local = [
            self._made(images[number % 2], self._draw(config, images[number % 2], 2, generator), config.local_size)
            for number in range(config.num_local)
        ]
        small = torch.stack(local) if local else None
        fine = self._fine(config, images[0], draws)
        return ImageViews(crops, small, sample.row.study_id, said_of(sample.row), fine)

    def _draw(self, config: MultiCropConfig, pixels: Tensor, kind: int, generator: np.random.Generator) -> CropDraw:
        size, scale = (config.local_size, config.local_scale) if kind == 2 else (config.size, config.scale)
        shape = tuple(pixels.shape[1:])
        if config.zoom is None:
            crop = draw(config, shape, generator, scale=scale)
        else:
            crop = draw_at_scale(config, shape, size, generator)
        change = draw_change(config.intensity, generator, ndim=len(shape), channels=len(pixels), kind=kind)
        return CropDraw(crop, change)

    def _made(self, pixels: Tensor, drawn: CropDraw, size: tuple[int, ...]) -> Tensor:
        return apply_change(cut(pixels, drawn.crop, size), drawn.change, self.scale)

    def _fine(self, config: MultiCropConfig, pixels: Tensor, draws: Sequence[CropDraw]) -> Tensor | None:
        if config.upscale == 1:
            return None
        size = tuple(config.upscale * side for side in config.size)
        clear = [replace(drawn, change=replace(drawn.change, sigma=0.0, noise=0.0)) for drawn in draws]
        return torch.stack([self._made(pixels, drawn, size) for drawn in clear])


def _part(pixels: Tensor, region: tuple[int, ...], corner: Float[np.ndarray, "n"]) -> Tensor:
    """Return the region of an image whose first voxel is at these shares of the possible range."""
    shape = tuple(pixels.shape[1:])
    box = tuple(min(sides) for sides in zip(region or shape, shape, strict=True))
    start = [int(share * (side - part + 1)) for share, side, part in zip(corner, shape, box, strict=True)]
    return pixels[_region(start, box)]


def collate_views(images: Sequence[ImageViews]) -> Views:
    """Stacks the views of images: `crops` (V, B, C, *S) and, where there are any, `local` (W, B, C, *s) and `fine`."""
    local = [image.local for image in images if image.local is not None]
    fine = [image.fine for image in images if image.fine is not None]
    return Views(
        torch.stack([image.crops for image in images], dim=1),
        local=torch.stack(local, dim=1) if local else None,
        studies=tuple(image.study for image in images),
        said=tuple(image.said for image in images),
        fine=torch.stack(fine, dim=1) if fine else None,
    )
