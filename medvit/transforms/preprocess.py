"""The chain from a stored image to what a model sees; saved in the checkpoint, so that inference cannot disagree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from jaxtyping import Float, Int, Shaped
from pydantic import BeforeValidator, Field, model_validator

from medvit.config import Config, Count, Positive
from medvit.errors import DataError
from medvit.geometry import Affine, resampled_grid, rescaled
from medvit.records import Kind
from medvit.transforms.field_of_view import FieldOfViewConfig, FieldSquare
from medvit.transforms.stain import StainConfig
from medvit.types import Image

if TYPE_CHECKING:
    from torch import Tensor


OptionalFieldOfView = Annotated[
    FieldOfViewConfig | None, BeforeValidator(lambda value: None if value == "none" else value)
]
Percent = Annotated[float, Field(ge=0.0, le=100.0)]


class Normalization(Config):
    """How stored values become the numbers a model sees."""

    method: Literal["zscore", "window", "range"] = "zscore"
    """zscore: clip to percentiles of the image, then zero mean and unit variance; window: a display window (CT, in HU)
    to [0, 1]; range: the range of the stored type to [0, 1]."""
    percentiles: tuple[Percent, Percent] = (0.5, 99.5)
    """Clipping bounds of zscore, in percent of the voxels that are not zero."""
    window_center: float = 40.0
    """Center of the window, in the unit of the image (HU for CT)."""
    window_width: Positive = 400.0
    """Width of the window, in the unit of the image (HU for CT)."""
    mean: tuple[float, ...] = ()
    """Subtracted from each channel after `window` or `range`, as public weights demand."""
    std: tuple[Positive, ...] = ()
    """Divides each channel after `mean`."""

    @model_validator(mode="after")
    def _has_only_what_its_method_uses(self) -> Self:
        used = {"zscore": ("percentiles",), "window": ("window_center", "window_width", "mean", "std")}
        unused = set(type(self).model_fields) - {"method", *used.get(self.method, ("mean", "std"))}
        given = sorted(key for key in unused if getattr(self, key) != type(self).model_fields[key].default)
        if given:
            raise ValueError(f"the method {self.method} does not use {', '.join(given)}; leave it out or change method")
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError(f"percentiles are {self.percentiles}; expected the lower one first")
        return self

    def __call__(self, pixels: Float[np.ndarray, "c *s"], stored: np.dtype) -> Float[np.ndarray, "c *s"]:
        """Normalized intensities, float32; `stored` is the type they were stored in."""
        if self.method == "zscore":
            return _zscore(pixels, self.percentiles)
        if self.method == "window":
            low = self.window_center - self.window_width / 2.0
            scaled = np.clip((pixels - low) / self.window_width, 0.0, 1.0)
        else:
            top = float(np.iinfo(stored).max) if np.issubdtype(stored, np.integer) else max(float(pixels.max()), 1e-6)
            scaled = pixels / top
        return _standardize(scaled, self.mean, self.std).astype(np.float32)


@dataclass(frozen=True)
class Prepared:
    """An image as a model sees it: `pixels` (C, *S) float32 and, where there is one, its mask (*S) on the same grid.

    `crop` is the square of a fundus photograph that the grid covers, none where it covers the whole image.
    """

    pixels: Float[Tensor, "c *s"]
    affine: Affine | None = None
    mask: Int[Tensor, "*s"] | None = None
    crop: FieldSquare | None = None


class Preprocess(Config):
    """Field of view, stain, spacing or size, channels and intensity."""

    kind: Kind = "volume"
    """What it takes: image (C, H, W) or volume (C, I, J, K)."""
    channels: Count = 1
    """Channels the model sees: a gray image is repeated, a color image averaged."""
    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    """Volumes are resampled to about this spacing (R, A, S), over the same field of view; none keeps their own."""
    size: tuple[Count, ...] | None = None
    """Images and volumes without spacing are resized to this; none keeps their own size."""
    interpolation: Literal["linear", "cubic"] = "linear"
    """How the pixels of images are resized; volumes are resized linearly."""
    field_of_view: OptionalFieldOfView = None
    """Of fundus photographs: cropped to the round field of view, before all else; none takes them as they are."""
    stain: StainConfig | None = None
    """Brings the colors of H&E to those of a reference first; none leaves them as they are."""
    intensity: Normalization = Field(default_factory=Normalization)

    @model_validator(mode="after")
    def _crops_images_to_a_size(self) -> Self:
        if self.field_of_view is not None and (self.kind != "image" or self.size is None):
            raise ValueError("field_of_view is of images and differs from one to the next; give kind: image and a size")
        return self

    def __call__(self, image: Image) -> Prepared:
        """The image, ready.

        Raises:
            DataError: If it is not of the kind this chain was made for, has no geometry where spacing is asked for, or
                no field of view where that is.
        """
        import torch

        if image.kind != self.kind:
            raise DataError(f"found an {image.kind}, expected a {self.kind}: this model was made for {self.kind}s")
        image, crop = self._cropped(image)
        shape, affine = self._grid(image)
        pixels = torch.from_numpy(self._channels(self.intensity(self._stained(image), image.pixels.dtype)))
        mask = None if image.mask is None else torch.from_numpy(image.mask.astype(np.int64))
        if shape != image.pixels.shape[1:]:
            pixels = resize(pixels, shape, self.interpolation)
            mask = None if mask is None else resize_mask(mask, shape)
        return Prepared(pixels, affine, mask, crop)

    def _cropped(self, image: Image) -> tuple[Image, FieldSquare | None]:
        if self.field_of_view is None:
            return image, None
        pixels, crop = self.field_of_view(image.pixels)
        mask = None if image.mask is None else crop.of(image.mask)
        return replace(image, pixels=crop.of(pixels), mask=mask), crop

    def _stained(self, image: Image) -> Float[np.ndarray, "c *s"]:
        if self.stain is None:
            return image.intensities()
        if image.pixels.shape[0] != 3 or image.pixels.ndim != 3 or image.pixels.dtype != np.uint8:
            raise DataError(
                f"found {image.pixels.shape[0]} channels of {image.pixels.dtype}; preprocess.stain needs pictures of "
                "three of 8 bits: leave it out"
            )
        return self.stain(image.intensities(), 255.0)

    def _grid(self, image: Image) -> tuple[tuple[int, ...], Affine | None]:
        shape = image.pixels.shape[1:]
        if self.spacing_mm is not None:
            if image.affine is None:
                raise DataError(
                    f"a {image.kind} has no affine, but preprocess.spacing_mm asks to resample it; use preprocess.size"
                )
            return resampled_grid(shape, image.affine, self.spacing_mm)
        if self.size is not None:
            if len(self.size) != len(shape):
                raise DataError(f"preprocess.size has {len(self.size)} numbers; a {image.kind} needs {len(shape)}")
            affine = None if image.affine is None else rescaled(image.affine, shape, self.size)
            return self.size, affine
        return shape, image.affine

    def _channels(self, pixels: Float[np.ndarray, "c *s"]) -> Float[np.ndarray, "d *s"]:
        found = pixels.shape[0]
        if found == self.channels:
            return np.ascontiguousarray(pixels)
        if found == 1:
            return np.ascontiguousarray(np.repeat(pixels, self.channels, axis=0))
        if self.channels == 1:
            return pixels.mean(axis=0, keepdims=True)
        raise DataError(f"found {found} channels; this model takes {self.channels}")


def resize(
    pixels: Float[Tensor, "c *s"], shape: tuple[int, ...], interpolation: Literal["linear", "cubic"] = "linear"
) -> Float[Tensor, "c *t"]:
    """Interpolation to a new shape over the same extent; 2D images are low-passed when they shrink."""
    from torch.nn import functional as F

    if len(shape) == 2:
        return F.interpolate(pixels[None], size=shape, mode=f"bi{interpolation}", antialias=True)[0]
    shrunk = _low_passed(pixels, shape)
    return F.interpolate(shrunk[None], size=shape, mode="trilinear", align_corners=False)[0]


def resize_mask(mask: Shaped[Tensor, "*s"], shape: tuple[int, ...]) -> Shaped[Tensor, "*t"]:
    """Nearest-neighbor interpolation of a label map to a new shape over the same field of view."""
    from torch.nn import functional as F

    return F.interpolate(mask[None, None].float(), size=shape, mode="nearest-exact")[0, 0].to(mask.dtype)


def _low_passed(pixels: Float[Tensor, "c i j k"], shape: tuple[int, ...]) -> Float[Tensor, "c i j k"]:
    """Gaussian smoothing along the axes that shrink, sigma half the factor beyond one, against aliasing."""
    factors = [old / new for old, new in zip(pixels.shape[1:], shape, strict=True)]
    if max(factors) <= 1.0:
        return pixels
    import torch
    from scipy.ndimage import gaussian_filter

    sigma = [0.0, *(max(0.0, (factor - 1.0) / 2.0) for factor in factors)]
    return torch.from_numpy(gaussian_filter(pixels.numpy(), sigma))


def _zscore(pixels: Float[np.ndarray, "c *s"], percentiles: tuple[float, float]) -> Float[np.ndarray, "c *s"]:
    normalized = np.empty_like(pixels, dtype=np.float32)
    for channel, values in enumerate(pixels):
        inside = values[values != 0]  # padding and masked background say nothing of the tissue
        low, high = np.percentile(inside if inside.size else values, percentiles)
        clipped = np.clip(values, low, high)
        normalized[channel] = (clipped - clipped.mean()) / max(float(clipped.std()), 1e-6)
    return normalized


def _standardize(
    pixels: Float[np.ndarray, "c *s"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[np.ndarray, "c *s"]:
    column = (-1, *(1,) * (pixels.ndim - 1))
    if mean:
        pixels = pixels - np.array(mean, dtype=np.float32).reshape(column)
    return pixels / np.array(std, dtype=np.float32).reshape(column) if std else pixels
