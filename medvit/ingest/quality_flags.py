"""Quality flags: defects of an image that can be seen without knowing its content.

Each flag is a rule with bounds. A flag is a hint for people and a filter for training (`skip_flags`); an image is never
refused because of a flag. Rules check stored values, at most `SAMPLED` of them along an axis, except the rule
`constant`, which checks all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Num
from numpy import ndarray as Array

from medvit.measured import measured, not_finite, not_measured
from medvit.readers.laterality import TOMOGRAPHY
from medvit.records import Flag, Padding
from medvit.types import Image

SAMPLED = {2: 512, 3: 64}
"""Maximum number of pixels checked along an axis, keyed by the number of axes; other pixels are skipped."""
LINES = {2: 128, 3: 16}
"""Maximum number of positions along each other axis at which pixels are compared with their neighbors along the longest
axis; keyed by the number of axes.
"""

MIN_NEIGHBOR_CORRELATION = 0.2
"""Minimum correlation of neighboring pixels; below it, an image is noise and flagged as blank."""
MIN_DRAWING_CORRELATION = 0.5
MIN_LEVELS = 0.02
"""Minimum share of the 8-bit range that the central 99 % of the intensities span; below it, an 8-bit image is flagged
as blank.
"""
MIN_CONTRAST = 0.1
"""Minimum share of the 8-bit range that the central 99 % of the intensities span; below it, an 8-bit image is flagged
as low in contrast.
"""

MIN_CLIPPED = 0.01
"""Minimum share of the pixels that have the highest value, for an image to count as possibly clipped."""
CLIPPED_RATIO = 3.0
"""In a clipped image, the pixels with the highest value are at least this many times as many as those just below it,
that is, within the share `CLIPPED_NEIGHBORS` of the range.
"""
CLIPPED_NEIGHBORS = 0.02
CLIPPED_MODALITIES_LEFT_OUT = ("SM", "GM", "SEG")
"""Modalities that are not checked for clipping: bright-field microscopy, whose background is white, and label maps."""
MIN_DISTINCT = 8
"""Minimum number of different values in an image that may be clipped. With fewer, it is a drawing or a label map, in
which many pixels always have the highest value.
"""

DARK_AROUND = ("CR", "DX", "RG", "MG", "IO", "PX", "CT", "MR")
"""Modalities whose background is dark where high values are bright (PS3.3 C.7.6.3.1.2, MONOCHROME2).

Of 413 brain MR slices, none was flagged as acquired, and 393 when inverted. Ultrasound, which fills its frame, and
angiography, which shows vessels dark, are excluded.
"""
FRAME = 0.03
"""Width of the outer frame in which the background of an image is measured, as a share of each side."""
MIN_BRIGHTER_FRAME = 0.25
"""Minimum difference, as a share of the range, by which the frame of an inverted image is brighter than its middle. An
inverted image whose body fills the frame, such as a tightly collimated chest, is missed.
"""

BAND = 0.8
"""Minimum share of bright pixels in an outer row or column that counts as film behind a collimator."""

MIN_SIDE = 16
"""Pixels of the shorter side in plane below which an image is tiny: less than one common patch of a transformer."""

VOXEL_MM = (0.02, 20.0)
"""Plausible spacing of voxels: from micro-CT of a specimen to the slices of a scout."""
MAX_ANISOTROPY = 40.0
EXTENT_MM = (4.0, 2500.0)
"""Plausible longest extent of a volume: from a biopsy to a whole body."""
OCT_VOXEL_MM, OCT_MAX_ANISOTROPY, OCT_EXTENT_MM = (0.001, 1.0), 200.0, (1.0, 30.0)
"""Plausible spacing, maximum ratio of spacings and plausible longest extent of optical coherence tomography of the eye:
voxels measure microns in depth, and B-scans are up to a quarter of a millimeter apart.
"""
PIXEL_MICRONS = (0.05, 5000.0)
"""Plausible pixel spacing: from microscopy to a coarse scintigram."""

MIN_PADDED = 0.4
"""Minimum share of the area of an image in outer rows and columns of a single value, for the image to be flagged as
padded.
"""


def flags(image: Image) -> tuple[Flag, ...]:
    """Return the names of all flags that apply to an image, in a fixed order.

    A constant image gets no other flag about pixel values.
    """
    damaged: tuple[Flag, ...] = () if not_finite(image.pixels) is None else ("not_finite",)
    sampled = _sampled(image.pixels)
    if _is_constant(sampled, image.padding) and _is_constant(image.pixels, image.padding):
        looks: tuple[Flag, ...] = ("constant", *damaged)
    else:
        seen = image.without_gaps()
        looks = (*damaged, *(name for name, rule in _LOOKS.items() if rule(seen, sampled)))
    return (*looks, *(name for name, rule in _GEOMETRY.items() if rule(image)))


def _is_constant(pixels: Num[Array, "c *s"], padding: Padding | None) -> bool:
    values = measured(pixels, padding)
    return not values.size or bool(values.min() == values.max())


def _sampled(pixels: Num[Array, "c *s"]) -> Num[Array, "c *t"]:
    limit = SAMPLED[pixels.ndim - 1]
    steps = (slice(None, None, -(-size // limit)) for size in pixels.shape[1:])
    return pixels[(slice(None), *steps)]


def _share_of_8_bits(pixels: Num[Array, "c *s"], padding: Padding | None) -> float:
    """Return the fraction of the range 0 to 255 that an 8-bit image uses; 1 for other types."""
    values = measured(pixels, padding)
    if pixels.dtype != np.uint8 or not values.size:
        return 1.0
    low, high = np.percentile(values, (0.5, 99.5))
    return float(high - low) / 255.0


def _is_blank(image: Image, pixels: Num[Array, "c *s"]) -> bool:
    correlation = _neighbor_correlation(image.pixels[0])
    if correlation < MIN_NEIGHBOR_CORRELATION:
        return True
    if pixels.dtype != np.uint8:
        return False
    if _share_of_8_bits(pixels, image.padding) >= MIN_LEVELS:
        return False
    # A small shape on an empty background is a label map or a drawing.
    has_shape = correlation > MIN_DRAWING_CORRELATION and int(np.ptp(pixels)) >= MIN_LEVELS * 255
    return not (has_shape and len(np.unique(pixels)) < MIN_DISTINCT)


def _neighbor_correlation(pixels: Num[Array, "*s"]) -> float:
    """Return the Pearson correlation of pixels with their next neighbors along the longest axis."""
    along = np.moveaxis(pixels, int(np.argmax(pixels.shape)), 0)
    limit = LINES[pixels.ndim]
    steps = (slice(None, None, -(-size // limit)) for size in along.shape[1:])
    values = along[(slice(None), *steps)].astype(np.float64)
    one, other = values[:-1] - values[:-1].mean(), values[1:] - values[1:].mean()
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float((one * other).sum()) / norm if norm > 0 else 1.0


def _is_low_in_contrast(image: Image, pixels: Num[Array, "c *s"]) -> bool:
    return MIN_LEVELS <= _share_of_8_bits(pixels, image.padding) < MIN_CONTRAST


def _is_clipped(image: Image, pixels: Num[Array, "c *s"]) -> bool:
    if image.modality in CLIPPED_MODALITIES_LEFT_OUT:
        return False
    values = measured(pixels, image.padding)
    if not values.size:
        return False
    low, high = float(values.min()), float(values.max())
    at_top = float((values == high).mean())
    if at_top < MIN_CLIPPED or len(np.unique(values)) < MIN_DISTINCT:
        return False
    just_below = float(((values < high) & (values >= high - CLIPPED_NEIGHBORS * (high - low))).mean())
    return at_top >= CLIPPED_RATIO * just_below


def _is_inverted(image: Image, pixels: Num[Array, "c *s"]) -> bool:
    if image.kind != "image" or image.modality not in DARK_AROUND or len(pixels) != 1 or image.unit:
        return False  # a volume may be cropped from a body, and values with a unit have no polarity
    values = pixels[0].astype(np.float64)
    lost = not_measured(pixels[0], image.padding)
    if lost is not None:
        values[lost] = np.nan
    if np.isnan(_frame(values)).all() or np.isnan(_middle(values)).all():
        return False  # the background is padding, or nothing was measured within it
    low, high = np.nanpercentile(values, (1, 99))
    around, inside = _around_and_inside(values)
    if around - inside <= MIN_BRIGHTER_FRAME * (high - low) or around <= (low + high) / 2:
        return False
    # Film behind a collimator is bright too; then the pixels just within its edge are dark, like air.
    within = _within_bands(values, (around + inside) / 2)
    if min(within.shape) < MIN_SIDE:
        return True
    rim, core = _around_and_inside(within)
    return rim > core


def _around_and_inside(values: Float[Array, "h w"]) -> tuple[float, float]:
    """Return the median of the outer frame and the median of the middle half of an image."""
    return float(np.nanmedian(_frame(values))), float(np.nanmedian(_middle(values)))


def _middle(values: Float[Array, "h w"]) -> Float[Array, "h w"]:
    return values[tuple(slice(size // 4, size - size // 4) for size in values.shape)]


def _within_bands(values: Float[Array, "h w"], level: float) -> Float[Array, "h w"]:
    """Return the image without the bright bands at its edges.

    A band consists of rows or columns in which most values exceed `level`.
    """
    is_dark = [(values > level).mean(axis=1 - axis) < BAND for axis in (0, 1)]
    spans = [np.flatnonzero(dark) for dark in is_dark]
    bounds = [slice(span[0], span[-1] + 1) if len(span) else slice(0) for span in spans]
    return values[tuple(bounds)]


def _frame(values: Float[Array, "h w"]) -> Float[Array, "n"]:
    rows, columns = (max(1, round(size * FRAME)) for size in values.shape)
    sides = (values[:rows], values[-rows:], values[rows:-rows, :columns], values[rows:-rows, -columns:])
    return np.concatenate([side.ravel() for side in sides])


def _is_tiny(image: Image) -> bool:
    return sorted(image.pixels.shape[1:])[-2] < MIN_SIDE


def _has_implausible_spacing(image: Image) -> bool:
    if image.affine is None:
        return image.mpp is not None and not PIXEL_MICRONS[0] <= image.mpp <= PIXEL_MICRONS[1]
    spacing = image.affine.spacing_mm
    extent = max(size * step for size, step in zip(image.pixels.shape[1:], spacing, strict=True))
    is_oct = image.modality == TOMOGRAPHY
    voxel, anisotropy = (OCT_VOXEL_MM, OCT_MAX_ANISOTROPY) if is_oct else (VOXEL_MM, MAX_ANISOTROPY)
    shortest, longest = OCT_EXTENT_MM if is_oct else EXTENT_MM
    return not (
        voxel[0] <= min(spacing) <= max(spacing) <= voxel[1]
        and max(spacing) <= anisotropy * min(spacing)
        and shortest <= extent <= longest
    )


def _is_padded(image: Image, pixels: Num[Array, "c *s"]) -> bool:
    if pixels.ndim != 3:
        return False
    # Gaps are filled in the image rather than in its sample: NaN differs from itself.
    pixels = _sampled(image.pixels)
    differs = (pixels != pixels[:, :1, :1]).any(axis=0)
    rows, columns = differs.any(axis=1).nonzero()[0], differs.any(axis=0).nonzero()[0]
    if not len(rows):
        return False
    inside = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return 1.0 - inside / differs.size >= MIN_PADDED


_LOOKS: Mapping[Flag, Callable[[Image, Num[Array, "c *s"]], bool]] = {
    "blank": _is_blank,
    "low_contrast": _is_low_in_contrast,
    "clipped": _is_clipped,
    "inverted": _is_inverted,
    "padded": _is_padded,
}
_GEOMETRY: Mapping[Flag, Callable[[Image], bool]] = {"tiny": _is_tiny, "spacing": _has_implausible_spacing}
