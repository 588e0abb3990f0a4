"""Preprocessing from a stored image to model input, which the checkpoint stores so that inference repeats it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import BeforeValidator, Field, model_validator

from medvit.config import Config, Count, Positive, Share
from medvit.errors import DataError
from medvit.geometry import Affine, resampled_grid, rescaled
from medvit.measured import not_finite, not_measured
from medvit.records import IGNORED
from medvit.transforms.field_of_view import FieldOfViewConfig, FieldSquare
from medvit.transforms.stain import StainConfig
from medvit.types import Image

if TYPE_CHECKING:
    from torch import Tensor


OptionalFieldOfView = Annotated[
    FieldOfViewConfig | None, BeforeValidator(lambda value: None if value == "off" else value)
]
Percent = Annotated[float, Field(ge=0.0, le=100.0)]


class Normalization(Config):
    """Normalization of stored values for a model."""

    method: Literal["zscore", "window", "range"] = "zscore"
    """Method of normalizing intensities. zscore: clip to percentiles of the image, then normalize to zero mean and unit
    variance. window: map a display window, such as a CT window in HU, to [0, 1]. range: map the range of the stored
    data type to [0, 1].
    """
    percentiles: tuple[Percent, Percent] = (0.5, 99.5)
    """Lower and upper percentile of the nonzero voxels, to which zscore clips."""
    window_center: float = 40.0
    """Center of the window, in the unit of the image (HU for CT)."""
    window_width: Positive = 400.0
    """Width of the window, in the unit of the image (HU for CT)."""
    mean: tuple[float, ...] = ()
    """Mean to subtract from each channel after `window` or `range`, as public weights require. Empty: 0."""
    std: tuple[Positive, ...] = ()
    """Standard deviation by which each channel is divided after `mean` is subtracted. Empty: 1."""

    @model_validator(mode="after")
    def _has_only_what_its_method_uses(self) -> Self:
        used = {"zscore": ("percentiles",), "window": ("window_center", "window_width", "mean", "std")}
        unused = set(type(self).model_fields) - {"method", *used.get(self.method, ("mean", "std"))}
        given = sorted(key for key in unused if getattr(self, key) != type(self).model_fields[key].default)
        if given:
            raise ValueError(
                f"the method {self.method} does not use {', '.join(given)}; remove the option or change method"
            )
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError(f"percentiles are {self.percentiles}; expected the lower percentile first")
        return self

    def __call__(
        self, pixels: Float[np.ndarray, "c *s"], stored: np.dtype, lost: Bool[np.ndarray, "c *s"] | None = None
    ) -> Float[np.ndarray, "c *s"]:
        """Return normalized intensities as float32; `stored` is the data type they were stored in.

        Only measured voxels, where `lost` is False, enter statistics.
        """
        if self.method == "zscore":
            return _zscore(pixels, self.percentiles, lost)
        if self.method == "window":
            low = self.window_center - self.window_width / 2.0
            scaled = np.clip((pixels - low) / self.window_width, 0.0, 1.0)
        else:
            top = float(np.iinfo(stored).max) if np.issubdtype(stored, np.integer) else max(float(pixels.max()), 1e-6)
            scaled = pixels / top
        return _standardize(scaled, self.mean, self.std).astype(np.float32)


@dataclass(frozen=True)
class Prepared:
    """Preprocessed image: `pixels` (C, *S) as float32 and, if there is one, the mask (*S) on the same grid.

    `crop` is the square of a fundus photograph that the pixels show; None if they show the whole image. `spacing` is
    the size of a pixel along each axis: in mm if the image has a scale, else relative to the original pixels.
    """

    pixels: Float[Tensor, "c *s"]
    affine: Affine | None = None
    mask: Int[Tensor, "*s"] | None = None
    crop: FieldSquare | None = None
    spacing: tuple[float, ...] | None = None


class Preprocess(Config):
    """Preprocessing. Unless `kind` is set, unset options are taken from the checkpoint or chosen from the images.

    If `kind` is set, unset options have their defaults.
    """

    kind: Literal["image", "volume"] = "volume"
    """Kind of input: image for (C, H, W), which includes tiles of slides, or volume for (C, I, J, K)."""
    channels: Count = 1
    """Channels of the model input. If there are several, the channel of a gray image is repeated. If there is one, the
    channels of a color image are averaged.
    """
    channel_names: tuple[str, ...] = ()
    """Names of the channels of the model input, in their order, for images with named channels such as T1 and FLAIR.
    Channels that an image lacks are marked as missing; channels that are not named here are not used. Empty: the
    channels have no names. Unset: the named channels of the images, in alphabetical order.
    """
    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    """Spacing (R, A, S) in mm to which volumes are resampled. The actual spacing may differ slightly, because a whole
    number of voxels must cover the unchanged field of view. Unset: volumes keep their spacing.
    """
    size: tuple[Count, ...] | None = None
    """Size to which images are resized, in pixels. Volumes are resized, too, if spacing_mm is unset. Unset: no
    resizing.
    """
    interpolation: Literal["linear", "cubic"] = "linear"
    """Interpolation for resizing images. Volumes are always interpolated linearly."""
    field_of_view: OptionalFieldOfView = None
    """Cropping of fundus photographs to the round field of view, before all other steps. Unset or off: not cropped."""
    stain: StainConfig | None = None
    """Normalization of H&E colors to a reference. Unset: colors do not change."""
    intensity: Normalization = Field(default_factory=Normalization)
    non_finite_share: Share = 0.5
    """Maximum fraction of NaN or infinite voxels in an image. Up to this fraction, such voxels are replaced by finite
    values. Above this fraction, the image is refused.
    """

    @model_validator(mode="before")
    @classmethod
    def _counts_named_channels(cls, given: Any) -> Any:
        """Set the number of channels to the number of names, if only the names are given."""
        names = given.get("channel_names") if isinstance(given, dict) else None
        if not names or isinstance(names, str) or "channels" in given:
            return given
        return {**given, "channels": len(names)}

    @model_validator(mode="after")
    def _names_every_channel_once(self) -> Self:
        names = self.channel_names
        if names and (len(names) != self.channels or len(set(names)) != len(names)):
            raise ValueError(
                f"channel_names names {', '.join(names)}, and channels is {self.channels}; expected one name, and "
                "another one, for each channel"
            )
        return self

    @model_validator(mode="after")
    def _crops_images_to_a_size(self) -> Self:
        if self.field_of_view is not None and (self.kind != "image" or self.size is None):
            raise ValueError(
                "field_of_view requires kind: image and a size, because the fields of view of photographs differ in "
                "size"
            )
        return self

    def __call__(self, image: Image) -> Prepared:
        """Return the preprocessed image.

        Voxels that were not measured are excluded from statistics and interpolation, and are then filled.

        Raises:
            DataError: If the image is not of the required kind, lacks the geometry for a requested spacing or the field
                of view for a requested crop, has too many non-finite voxels, or has a label on a non-finite voxel.
        """
        self.require_finite(self._arranged(image)[0])
        return self.prepared(image)

    def require_finite(self, image: Image) -> None:
        """Check that at most a fraction `non_finite_share` of an image is NaN or infinite.

        Raises:
            DataError: If the fraction is larger.
        """
        lost = not_finite(image.pixels)
        if lost is not None and lost.mean() > self.non_finite_share:
            raise DataError(
                f"{_name(image)}: {100 * lost.mean():.0f} % of its voxels are NaN or infinite, and "
                f"preprocess.non_finite_share allows {100 * self.non_finite_share:.0f} %; repair the image, or "
                "exclude it by skip_flags=[not_finite]"
            )

    def prepared(self, image: Image) -> Prepared:
        """Return the preprocessed image without checking how many voxels are finite.

        The check is omitted because a slice outside the body may have few finite voxels.

        Raises:
            DataError: As for `__call__`, except for the fraction of non-finite voxels.
        """
        import torch

        if image.kind != self.kind:
            raise DataError(f"found an {image.kind}, expected a {self.kind}: this model accepts {self.kind}s")
        image, present = self._arranged(image)
        lost = not_measured(image.pixels, image.padding)
        _check_labels(image)
        image, crop = self._cropped(image.without_gaps())
        lost = lost if lost is None or crop is None else crop.of(lost)
        shape, affine = self._grid(image)
        pixels = torch.from_numpy(self._channels(self.intensity(self._stained(image), image.pixels.dtype, lost)))
        mask = None if image.mask is None else torch.from_numpy(image.mask.astype(np.int64))
        if shape != image.pixels.shape[1:]:
            if lost is None:
                pixels = resize(pixels, shape, self.interpolation)
            else:
                gaps = torch.from_numpy(self._channels(lost.astype(np.float32))) > 0.0
                pixels = resize_measured(pixels, gaps, shape, self.interpolation)
            mask = None if mask is None else resize_mask(mask, shape)
        for number, is_present in enumerate(present):
            if not is_present:
                pixels[number] = torch.nan
        return Prepared(pixels, affine, mask, crop, _spacing(image, shape))

    def _arranged(self, image: Image) -> tuple[Image, tuple[bool, ...]]:
        """Return the image with the channels that the model takes, in their order, and which of them it has.

        Missing channels are zero until the end of the preprocessing, which marks them.

        Raises:
            DataError: If the image has named channels and the model does not, or conversely, or no channel is present.
        """
        names = self.channel_names
        if not names and not image.channels:
            return image, ()
        if not names:
            raise DataError(
                f"{_name(image)} has the named channels {', '.join(image.channels)}, but the model does not take named "
                "channels; give preprocess.channel_names, or ingest the images without scanning.channels"
            )
        if not set(image.channels) & set(names):
            found = f"has the channels {', '.join(image.channels)}" if image.channels else "has no named channels"
            raise DataError(
                f"{_name(image)} {found}; this model takes {', '.join(names)}: name the channels in ingest by "
                "scanning.channels, and in predict by channels"
            )
        pixels = np.zeros((len(names), *image.pixels.shape[1:]), image.pixels.dtype)
        for name, channel in zip(image.channels, image.pixels, strict=True):
            if name in names:
                pixels[names.index(name)] = channel
        return replace(image, pixels=pixels, channels=names), tuple(name in image.channels for name in names)

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
                f"found {image.pixels.shape[0]} channels of {image.pixels.dtype}; preprocess.stain requires images "
                "with three channels of 8 bits: remove the option for this dataset"
            )
        return self.stain(image.intensities(), 255.0)

    def _grid(self, image: Image) -> tuple[tuple[int, ...], Affine | None]:
        shape = image.pixels.shape[1:]
        if self.spacing_mm is not None:
            if image.affine is None:
                raise DataError(
                    f"the {image.kind} has no affine, so it cannot be resampled to preprocess.spacing_mm; use "
                    "preprocess.size instead"
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
        raise DataError(f"found {found} channels; this model accepts {self.channels}")


def resize(
    pixels: Float[Tensor, "c *s"], shape: tuple[int, ...], interpolation: Literal["linear", "cubic"] = "linear"
) -> Float[Tensor, "c *t"]:
    """Interpolate to a new shape over the same extent; 2D images are low-pass filtered if they shrink."""
    from torch.nn import functional as F

    if len(shape) == 2:
        return F.interpolate(pixels[None], size=shape, mode=f"bi{interpolation}", antialias=True)[0]
    shrunk = _low_passed(pixels, shape)
    return F.interpolate(shrunk[None], size=shape, mode="trilinear", align_corners=False)[0]


def resize_measured(
    pixels: Float[Tensor, "c *s"],
    gaps: Bool[Tensor, "c *s"],
    shape: tuple[int, ...],
    interpolation: Literal["linear", "cubic"] = "linear",
) -> Float[Tensor, "c *t"]:
    """Interpolate by normalized convolution, so that measured voxels do not mix with unmeasured ones (`gaps`).

    Each new voxel is a weighted mean of measured voxels. If most of its weight is on unmeasured voxels, it is a
    weighted mean of their fill values (Knutsson and Westin, CVPR 1993).
    """
    import torch

    weight = resize((~gaps).to(pixels.dtype), shape, interpolation)
    inside = resize(pixels * ~gaps, shape, interpolation) / weight.clamp(min=0.5)
    outside = resize(pixels * gaps, shape, interpolation) / (1.0 - weight).clamp(min=0.5)
    return torch.where(weight >= 0.5, inside, outside)


def resize_mask(mask: Shaped[Tensor, "*s"], shape: tuple[int, ...]) -> Shaped[Tensor, "*t"]:
    """Return a label map in a new shape over the same field of view, by nearest-neighbor interpolation."""
    from torch.nn import functional as F

    return F.interpolate(mask[None, None].float(), size=shape, mode="nearest-exact")[0, 0].to(mask.dtype)


def _low_passed(pixels: Float[Tensor, "c i j k"], shape: tuple[int, ...]) -> Float[Tensor, "c i j k"]:
    """Return the pixels smoothed along the axes that are to shrink, which prevents aliasing.

    The sigma of the Gaussian is half of the amount by which the reduction factor exceeds 1.
    """
    factors = [old / new for old, new in zip(pixels.shape[1:], shape, strict=True)]
    if max(factors) <= 1.0:
        return pixels
    import torch
    from scipy.ndimage import gaussian_filter

    sigma = [0.0, *(max(0.0, (factor - 1.0) / 2.0) for factor in factors)]
    return torch.from_numpy(gaussian_filter(pixels.numpy(), sigma))


def _zscore(
    pixels: Float[np.ndarray, "c *s"], percentiles: tuple[float, float], lost: Bool[np.ndarray, "c *s"] | None
) -> Float[np.ndarray, "c *s"]:
    normalized = np.empty_like(pixels, dtype=np.float32)
    for channel, values in enumerate(pixels):
        known = values if lost is None or lost[channel].all() else values[~lost[channel]]
        inside = known[known != 0]  # zero background has no information about the tissue
        low, high = np.percentile(inside if inside.size else known, percentiles)
        counted = np.clip(known, low, high)
        clipped = counted if known is values else np.clip(values, low, high)
        normalized[channel] = (clipped - counted.mean()) / max(float(counted.std()), 1e-6)
    return normalized


def _spacing(image: Image, shape: tuple[int, ...]) -> tuple[float, ...]:
    """Return the size of a pixel after resizing an image to `shape`."""
    own: tuple[float, ...] = (1.0 if image.mpp is None else image.mpp / 1000.0,) * len(shape)
    if image.affine is not None and image.kind == "volume":
        own = image.affine.spacing_mm
    elif image.plane_mm is not None:
        own = image.plane_mm
    return tuple(mm * side / new for mm, side, new in zip(own, image.pixels.shape[1:], shape, strict=True))


def _check_labels(image: Image) -> None:
    if image.mask is None:
        return
    lost = not_finite(image.pixels)
    is_labeled = (image.mask > 0) & (image.mask != IGNORED)
    num_labeled = 0 if lost is None else int((lost.any(axis=0) & is_labeled).sum())
    if num_labeled:
        raise DataError(
            f"{_name(image)}: {num_labeled} voxels under its label map are NaN or infinite; expected a measurement "
            "wherever there is a label: repair the image or its label map, or exclude it by skip_flags=[not_finite]"
        )


def _name(image: Image) -> str:
    return f"the {image.kind}" if image.row is None else str(image.row)


def _standardize(
    pixels: Float[np.ndarray, "c *s"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[np.ndarray, "c *s"]:
    column = (-1, *(1,) * (pixels.ndim - 1))
    if mean:
        pixels = pixels - np.array(mean, dtype=np.float32).reshape(column)
    return pixels / np.array(std, dtype=np.float32).reshape(column) if std else pixels
