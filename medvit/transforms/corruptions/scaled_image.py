"""Image with its values scaled by their range, in which corruptions work, and the conversion back to stored values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num
from numpy import ndarray as Array

from medvit.measured import not_measured
from medvit.types import Image

SOFT_TISSUE_HU = (-160.0, 240.0)
"""Range of CT: the window of soft tissue, so that levels mean the same HU in every image."""
PERCENTILES = (0.5, 99.5)
"""Percentiles of the imaged pixels that are the range of other images than photographs of 8 bits and CT."""
ARBITRARY_UNITS = ("MR", "NM", "PT")
"""Modalities whose values have no fixed range, even if they are stored in 8 bits."""
MIN_BACKGROUND = 0.01
"""Smallest share of an image that counts as its background."""
LOWEST_HU = -1024.0


@dataclass(frozen=True)
class ScaledImage:
    """Pixels (C, *S) with 0 and 1 at the ends of the range of each channel; values may be outside of it.

    The range is all values of 8-bit images, a window of soft tissue in CT, and percentiles in volumes of 8 bits, in MR
    and PET and in all other images, from 0 if no value is negative.
    """

    pixels: Float[Array, "c *s"]
    low: Float[Array, "c *o"]
    width: Float[Array, "c *o"]
    background: Bool[Array, "*s"] | None
    """Pixels that were not imaged: those of the lowest value that are connected to the border, as around a fundus or a
    brain without its skull. None if there is no background."""
    modality: str
    spacing: tuple[float, ...]
    """Size of a pixel along each axis, in any unit."""

    @property
    def slice_axis(self) -> int | None:
        """Spatial axis across the slices of a volume: that of the largest spacing, and the last one of several."""
        if len(self.spacing) != 3:
            return None
        return max(range(3), key=lambda axis: (round(self.spacing[axis], 3), axis))

    @property
    def plane_axes(self) -> tuple[int, ...]:
        """Axes of `pixels` within an image or slice."""
        return tuple(1 + axis for axis in range(len(self.spacing)) if axis != self.slice_axis)

    @property
    def plane_side(self) -> float:
        """Shorter side of an image or slice, in the unit of the spacing."""
        return min(self.pixels.shape[axis] * self.spacing[axis - 1] for axis in self.plane_axes)

    @property
    def within(self) -> Float[Array, "c *s"]:
        """Pixels clipped to the range."""
        return np.clip(self.pixels, 0.0, 1.0)

    @property
    def imaged_mean(self) -> Float[Array, "c *o"]:
        """Mean of the pixels of each channel within the range, such as tissue in CT, without the background."""
        chosen = (self.pixels >= 0.0) & (self.pixels <= 1.0)
        if self.background is not None:
            chosen &= ~self.background
        means = [one[those].mean() if those.any() else 0.5 for one, those in zip(self.pixels, chosen, strict=True)]
        return np.array(means, np.float32).reshape(self.low.shape)


def scaled(image: Image) -> ScaledImage:
    """Return an image with its values scaled by their range; unmeasured pixels have a background value."""
    filled = image.without_gaps()
    values, ndim = filled.intensities(), image.pixels.ndim - 1
    background = _background(filled.pixels)
    ends = [_range(image, channel, background) for channel in values]
    column = (-1, *(1,) * ndim)
    low = np.array([low for low, _ in ends], np.float32).reshape(column)
    width = np.array([high - low for low, high in ends], np.float32).reshape(column)
    spacing = (1.0,) * ndim if image.affine is None or ndim != 3 else image.affine.spacing_mm
    return ScaledImage((values - low) / width, low, width, background, image.modality.upper(), spacing)


def as_stored(
    image: Image, before: ScaledImage, pixels: Float[Array, "c *s"], *, keeps_background: bool
) -> Num[Array, "c *s"]:
    """Return scaled pixels in the unit and type of an image; values saturate where a scanner or its file would.

    Pixels that were not measured, and the background if it is kept, remain as they are.
    """
    values = np.maximum(pixels * before.width + before.low, _floor(image))
    stored = (values - np.float32(image.intercept)) / np.float32(image.slope)
    if np.issubdtype(image.pixels.dtype, np.integer):
        ends = np.iinfo(image.pixels.dtype)
        stored = np.clip(np.rint(stored), ends.min, ends.max)
    made = stored.astype(image.pixels.dtype)
    lost = not_measured(image.pixels, image.padding)
    if lost is not None:
        made[lost] = image.pixels[lost]
    if keeps_background and before.background is not None:
        made[:, before.background] = image.pixels[:, before.background]
    return made


def _range(image: Image, channel: Float[Array, "*s"], background: Bool[Array, "*s"] | None) -> tuple[float, float]:
    if image.pixels.dtype == np.uint8 and image.kind == "image" and image.modality.upper() not in ARBITRARY_UNITS:
        ends = sorted(image.slope * end + image.intercept for end in (0.0, 255.0))
        return ends[0], ends[1]
    if image.unit == "HU":
        return SOFT_TISSUE_HU
    imaged = channel if background is None or background.all() else channel[~background]
    low, high = (float(end) for end in np.percentile(imaged, PERCENTILES))
    low = 0.0 if channel.min() >= 0.0 else low
    return (low, high) if high > low else (low, low + 1.0)


def _floor(image: Image) -> float:
    """Return the lowest value that the images of a scanner have."""
    lowest = float(image.without_gaps().intensities().min())
    if image.unit == "HU":
        return min(LOWEST_HU, lowest)
    return 0.0 if lowest >= 0.0 else -np.inf


def _background(pixels: Num[Array, "c *s"]) -> Bool[Array, "*s"] | None:
    from scipy.ndimage import label

    lowest = (pixels == pixels.min()).all(axis=0)
    if lowest.mean() < MIN_BACKGROUND:
        return None
    parts, _ = label(lowest)
    planes = [np.take(parts, end, axis) for axis in range(parts.ndim) for end in (0, -1)]
    outer = np.unique(np.concatenate([plane.ravel() for plane in planes]))
    found: Array = np.isin(parts, outer[outer > 0])
    return found if MIN_BACKGROUND <= found.mean() < 1.0 else None
