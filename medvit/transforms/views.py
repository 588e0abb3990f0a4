"""Training crops for self-supervision; the box of a crop is drawn first, then the crop is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from medvit.config import Config, Count, Positive
from medvit.records import Row
from medvit.transforms.augmentation.change import Change, CropDraw, apply_change, draw_change
from medvit.transforms.augmentation.options import Augmentation, ContrastiveAugmentation, MaskedAugmentation
from medvit.transforms.augmentation.spatial import CropBox
from medvit.transforms.preprocess import Normalization, resize
from medvit.types import Sample, Views

Covered = Annotated[float, Field(gt=0.0, le=1.0)]

LOCAL_SHARE = 96 / 224
"""Default side of a local crop relative to a global one (Caron et al., ICCV 2021)."""


class ViewsConfig(Config):
    """Options for the crops of each image that an objective receives."""

    RENAMED: ClassVar[Mapping[str, str]] = {"intensity": "augment", "flipped_axes": "augment.flipped_axes"}

    size: tuple[Count, ...] = ()
    """Size of a crop, (H, W) or (I, J, K), in pixels or voxels; a multiple of the patch size. Empty: chosen by the size
    of the images, up to 224 pixels or 96 voxels per side.
    """
    scale: tuple[Covered, Covered] = (0.2, 1.0)
    """Minimum and maximum fraction of the image's area or volume that a crop covers."""
    stretch: float = Field(default=4 / 3, ge=1.0)
    """Maximum ratio by which one axis of a crop is stretched relative to another axis."""
    augment: Augmentation = Field(default_factory=Augmentation)

    def fitted(self, size: tuple[int, ...], patch_size: tuple[int, ...]) -> ViewsConfig:
        """Return the options with unset sizes filled in, as multiples of the patch size."""
        return self if self.size else self.model_copy(update={"size": size})

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        """Options with one number per axis, by option name."""
        return {"objective.views.size": self.size}


class MultiCropConfig(ViewsConfig):
    """Two global crops of each image for teacher and student, and local crops for the student only."""

    RENAMED: ClassVar[Mapping[str, str]] = {**ViewsConfig.RENAMED, "finer": "upscale"}

    scale: tuple[Covered, Covered] = (0.4, 1.0)
    """Minimum and maximum fraction of the image's area or volume that a global crop covers."""
    num_local: int = Field(default=8, ge=0)
    """Number of local crops per image."""
    local_size: tuple[Count, ...] = ()
    """Size of a local crop in pixels or voxels; a multiple of the patch size. Empty: 96/224 of the size of a global
    crop.
    """
    local_scale: tuple[Covered, Covered] = (0.05, 0.4)
    """Minimum and maximum fraction of the image's area or volume that a local crop covers."""
    zoom: tuple[Positive, Positive] | None = None
    """Minimum and maximum number of image pixels per crop pixel, used instead of scale and local_scale. The range 0.9
    to 1.1 preserves the size of cells (extended-context translation, Zimmermann et al., 2024).
    """
    region: tuple[Count, ...] = ()
    """Size of a random region of the image from which all of its crops are cut. Empty: crops are cut from the whole
    image.
    """
    upscale: Count = 1
    """Resolution factor of additional crops for the Gram loss. Set objective.gram.upscale instead, which sets this
    option.
    """
    augment: ContrastiveAugmentation = Field(default_factory=ContrastiveAugmentation)
    across_study: bool = False
    """Cut half of the local crops from another image of the same study, if there is one (VET-DINO, 2025). The teacher
    sees only one image.
    """

    def fitted(self, size: tuple[int, ...], patch_size: tuple[int, ...]) -> MultiCropConfig:
        """Return the options with unset sizes filled in, as multiples of the patch size."""
        sides = self.size or size
        local = tuple(
            max(1, round(side * LOCAL_SHARE / patch)) * patch for side, patch in zip(sides, patch_size, strict=True)
        )
        return self.model_copy(update={"size": sides, "local_size": self.local_size or local})

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        """Options with one number per axis, by option name."""
        own = {"objective.views.local_size": self.local_size, "objective.views.region": self.region}
        return {**super().sizes, **own}


class MaskedViewsConfig(MultiCropConfig):
    """Crops as in DINOv2: global crops cover 0.32 to 1 of an image, local crops 0.05 to 0.32."""

    scale: tuple[Covered, Covered] = (0.32, 1.0)
    local_scale: tuple[Covered, Covered] = (0.05, 0.32)
    augment: MaskedAugmentation = Field(default_factory=MaskedAugmentation)


def draw(
    config: ViewsConfig,
    shape: Sequence[int],
    generator: np.random.Generator,
    *,
    scale: tuple[float, float] | None = None,
) -> CropBox:
    """Return a random box in an image of a given shape.

    The box covers a fraction of the image within `scale`, or within the scale of the config if unset.
    """
    share = generator.uniform(*(scale or config.scale))
    sides = np.minimum(share ** (1 / len(shape)) * _ratios(config.stretch, len(shape), generator), 1.0)
    return _placed(shape, sides * np.array(shape), generator)


def draw_at_scale(
    config: MultiCropConfig, shape: Sequence[int], size: tuple[int, ...], generator: np.random.Generator
) -> CropBox:
    """Return a random box in an image, with a side of about z pixels for each pixel of a crop of the given size.

    The zoom z is drawn from the range `config.zoom`.
    """
    assert config.zoom is not None
    zoom = generator.uniform(*config.zoom) * _ratios(config.stretch, len(shape), generator)
    return _placed(shape, np.minimum(zoom * np.array(size), shape), generator)


def _ratios(stretch: float, ndim: int, generator: np.random.Generator) -> Float[np.ndarray, "n"]:
    ratios = np.exp(generator.uniform(-0.5, 0.5, ndim) * np.log(stretch))
    return np.asarray(ratios / np.prod(ratios) ** (1 / ndim))


def _placed(shape: Sequence[int], sides: Float[np.ndarray, "n"], generator: np.random.Generator) -> CropBox:
    box = tuple(max(1, round(float(side))) for side in sides)
    start = tuple(int(generator.integers(0, size - side + 1)) for size, side in zip(shape, box, strict=True))
    return CropBox(start, box)


def cut(pixels: Float[Tensor, "c *s"], box: CropBox, size: tuple[int, ...]) -> Float[Tensor, "c *t"]:
    """Return the box of an image, interpolated to the given size."""
    return resize(pixels[(slice(None), *box.slices)], size)


@dataclass(frozen=True)
class ImageViews:
    """Views of one image: global crops (V, C, *S) and, if any, local crops (W, C, *s).

    `study` is the pseudonym of the study, and `description` has the labels of the image. `fine` (V, C, *t) are the
    global crops at a higher resolution, if requested.
    """

    crops: Float[Tensor, "v c *s"]
    local: Float[Tensor, "w c *s"] | None
    study: str
    description: Mapping[str, str] = field(default_factory=dict)
    fine: Float[Tensor, "v c *t"] | None = None


def description_of(row: Row) -> dict[str, str]:
    """Return the labels of an image, and its modality, laterality and view position."""
    known = {"modality": row.modality, **{key: row.attributes.get(key, "") for key in ("laterality", "view")}}
    return {key: text for key, text in {**known, **row.labels}.items() if text}


class MakeViews:
    """Transform from a sample to random views, determined by the seed alone.

    Raises:
        ConfigError: If the preprocessing loses the unit that windows or stain need.
    """

    def __init__(self, config: ViewsConfig, intensity: Normalization, *, key: str = "views") -> None:
        self.config = config
        self.unit_scale = config.augment.unit_scale(intensity, key=f"objective.{key}.augment")

    def __call__(self, sample: Sample, seed: int, other: Sample | None = None) -> ImageViews:
        """Return the views of a sample.

        Every second local crop is of `other`, an image of the same study, if there is one.
        """
        generator = np.random.default_rng(seed)
        config = self.config
        if not isinstance(config, MultiCropConfig):
            box = draw(config, sample.pixels.shape[1:], generator)
            crop = self._made(sample, CropDraw(box, self._change(sample, 0, generator)), config.size)
            return ImageViews(crop[None], None, sample.row.study_id, description_of(sample.row))
        corner = generator.random(len(config.size))
        images = [_part(image, config.region, corner) for image in (sample, other or sample)]
        draws = [self._draw(config, images[0], kind, generator) for kind in (0, 1)]
        crops = torch.stack([self._made(images[0], drawn, config.size) for drawn in draws])
        local = [
            self._made(images[number % 2], self._draw(config, images[number % 2], 2, generator), config.local_size)
            for number in range(config.num_local)
        ]
        small = torch.stack(local) if local else None
        fine = self._fine(config, images[0], draws)
        return ImageViews(crops, small, sample.row.study_id, description_of(sample.row), fine)

    def _draw(self, config: MultiCropConfig, image: Sample, kind: int, generator: np.random.Generator) -> CropDraw:
        size, scale = (config.local_size, config.local_scale) if kind == 2 else (config.size, config.scale)
        shape = tuple(image.pixels.shape[1:])
        if config.zoom is None:
            box = draw(config, shape, generator, scale=scale)
        else:
            box = draw_at_scale(config, shape, size, generator)
        return CropDraw(box, self._change(image, kind, generator))

    def _change(self, image: Sample, kind: int, generator: np.random.Generator) -> Change:
        channels, *shape = image.pixels.shape
        return draw_change(self.config.augment, generator, ndim=len(shape), channels=channels, kind=kind)

    def _made(self, image: Sample, drawn: CropDraw, size: tuple[int, ...]) -> Tensor:
        sampler = drawn.sampler(tuple(image.pixels.shape[1:]), size, image.spacing)
        return apply_change(image.pixels, sampler, drawn.change, self.unit_scale)

    def _fine(self, config: MultiCropConfig, image: Sample, draws: Sequence[CropDraw]) -> Tensor | None:
        if config.upscale == 1:
            return None
        size = tuple(config.upscale * side for side in config.size)
        clear = [replace(drawn, change=drawn.change.without_loss) for drawn in draws]
        return torch.stack([self._made(image, drawn, size) for drawn in clear])


def _part(image: Sample, region: tuple[int, ...], corner: Float[np.ndarray, "n"]) -> Sample:
    """Return a region of an image.

    `corner` is the relative position of the region, from 0 to 1 along each axis.
    """
    shape = tuple(image.pixels.shape[1:])
    box = tuple(min(sides) for sides in zip(region or shape, shape, strict=True))
    start = (int(share * (side - part + 1)) for share, side, part in zip(corner, shape, box, strict=True))
    return replace(image, pixels=image.pixels[(slice(None), *CropBox(tuple(start), box).slices)])


def collate_views(images: Sequence[ImageViews]) -> Views:
    """Stack the views of images: `crops` (V, B, C, *S) and, if any, `local` (W, B, C, *s) and `fine`."""
    local = [image.local for image in images if image.local is not None]
    fine = [image.fine for image in images if image.fine is not None]
    return Views(
        torch.stack([image.crops for image in images], dim=1),
        local=torch.stack(local, dim=1) if local else None,
        studies=tuple(image.study for image in images),
        descriptions=tuple(image.description for image in images),
        fine=torch.stack(fine, dim=1) if fine else None,
    )
