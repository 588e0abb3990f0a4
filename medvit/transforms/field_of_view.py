"""Round field of view of a fundus photograph: detection, cropping to a square, and a uniformly black border.

A camera shows the retina as a disc on black, whose top and bottom may be cut off by the frame. The border reveals the
camera, occupies up to half of the pixels, and is never fully black. Cropping shifts and pads by whole pixels and
changes no pixel of the retina, so predictions on the crop can be mapped back to the photograph exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool, Float, Num
from numpy import ndarray as Array
from pydantic import Field

from medvit.config import Config
from medvit.errors import DataError

SEARCHED = 256
"""Longer side of the photograph for detection, in pixels. The position that is found is accurate to about two of these
pixels.
"""
DARK_SHARE = 0.12
"""Brightness at which the border ends, from 0 (darkest pixels) to 1 (bright pixels): DRIVE's border has up to 0.1, its
retina at least 0.25 except for a rim of two pixels.
"""
DARK_LEVEL = 0.3
"""Share of the bright level. If even the darkest pixels are brighter than this, there is no border, and the whole frame
is inside the field of view.
"""
BORDERLESS = 0.985
"""Bright share of the frame above which the border is negligible."""
MIN_AGREEMENT = 0.9
"""Minimum intersection over union of the bright region and the disc fitted to its outline, within the frame.

At `SEARCHED` pixels, all 30 tested photographs of DRIVE have 0.97 or more, and 1592 of 1600 of RetinaMNIST have 0.9 or
more.
"""
MIN_OUTLINE = 12
"""Minimum number of outline points within the frame that are required to fit a disc."""
RADII = (0.2, 0.75)
"""Smallest and largest radius of a field, relative to the longer side of the frame; larger circles are straight edges.
"""


class FieldOfViewConfig(Config):
    """Cropping of a fundus photograph to its field of view."""

    share: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    """Side of the square to which fundus photographs are cropped, relative to the diameter of the round field of view.
    The value 1 keeps the whole field; 0.875 is the crop of RETFound (224 of 256 pixels). Photographs are cropped only
    if a field_of_view option is set.
    """
    blacken: bool = True
    """Set all pixels outside the round field of view to black, including text added by the camera."""
    missing: Literal["refuse", "whole"] = "refuse"
    """Handling of photographs in which no round field is found. refuse: reject them. whole: use the whole frame, padded
    with black to a square.
    """

    def __call__(self, pixels: Num[Array, "c h w"]) -> tuple[Num[Array, "c h w"], FieldSquare]:
        """Return the photograph with a black border, and the square to crop it to.

        Raises:
            DataError: If a disc is not found in the photograph and `missing` is refuse.
        """
        disc = find_disc(pixels) if self.missing == "whole" else require_disc(pixels)
        if disc is None or disc.is_whole_frame:
            return pixels, whole_frame(pixels.shape[1:])
        return blackened(pixels, disc) if self.blacken else pixels, disc.crop(self.share)


@dataclass(frozen=True)
class Disc:
    """Field of view in pixel coordinates of the photograph: pixel centers have whole-number rows and columns, from 0.

    `is_whole_frame` is True for a photograph without a border; the disc is then the circumscribed circle of the frame.
    `agreement` is the intersection over union of the bright region and the disc, 1 at best.
    """

    row: float
    column: float
    radius: float
    agreement: float = 1.0
    is_whole_frame: bool = False

    def inside(self, shape: tuple[int, ...]) -> Bool[Array, "h w"]:
        """Return a mask of the pixels within the field of view, for a frame of this shape."""
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        return np.hypot(rows - self.row, columns - self.column) <= self.radius + 0.5

    def crop(self, share: float) -> FieldSquare:
        """Return the square around the center with a side of `share` diameters; it may extend beyond the frame."""
        side = max(1, round((2.0 * self.radius + 1.0) * share))
        return FieldSquare(round(self.row - (side - 1) / 2), round(self.column - (side - 1) / 2), side)


@dataclass(frozen=True)
class FieldSquare:
    """Square of whole pixels: `top` and `left` of its first pixel, which may be outside the frame, and its side."""

    top: int
    left: int
    side: int

    def of(self, pixels: Num[Array, "*c h w"]) -> Num[Array, "*c s s"]:
        """Return the pixels inside the square; zero where the square extends beyond the frame."""
        square = np.zeros((*pixels.shape[:-2], self.side, self.side), pixels.dtype)
        there, here = self._overlap(*pixels.shape[-2:])
        square[(..., *here)] = pixels[(..., *there)]
        return square

    def back(self, square: Num[Array, "*c s s"], shape: tuple[int, ...]) -> Num[Array, "*c h w"]:
        """Return a frame of `shape` with the square at its position and zeros around it: the inverse of `of`."""
        pixels = np.zeros((*square.shape[:-2], *shape), square.dtype)
        there, here = self._overlap(*shape)
        pixels[(..., *there)] = square[(..., *here)]
        return pixels

    def _overlap(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the part of the frame that is in the square, and the part of the square that is in the frame."""
        spans = []
        for start, size in ((self.top, height), (self.left, width)):
            low, high = max(0, start), min(size, start + self.side)
            spans.append((slice(low, max(low, high)), slice(low - start, max(low, high) - start)))
        return (spans[0][0], spans[1][0]), (spans[0][1], spans[1][1])


def whole_frame(shape: tuple[int, ...]) -> FieldSquare:
    """Return the smallest square that contains the frame and has the same center."""
    side = max(shape)
    return FieldSquare((shape[0] - side) // 2, (shape[1] - side) // 2, side)


def require_disc(pixels: Num[Array, "c h w"]) -> Disc:
    """Return the field of view of a photograph, or raise an error.

    Raises:
        DataError: If a disc is not found in the photograph.
    """
    disc = find_disc(pixels)
    if disc is None:
        raise DataError(
            "the image does not show a round field of view; expected a fundus photograph with a bright disc on black: "
            "exclude the image, or set preprocess.field_of_view.missing=whole to use such images without cropping"
        )
    return disc


def find_disc(pixels: Num[Array, "c h w"]) -> Disc | None:
    """Return the field of view of a photograph, or None.

    The result is None if the bright region is neither a disc nor a part of a disc that the frame cuts off.
    """
    bright = pixels.max(axis=0).astype(np.float32)
    step = max(1, -(-max(bright.shape) // SEARCHED))
    seen = _averaged(bright, step)
    region = _brightest_region(seen)
    if region is None:
        return None
    if region.mean() >= BORDERLESS:
        height, width = bright.shape
        return Disc((height - 1) / 2, (width - 1) / 2, float(np.hypot(height, width)) / 2, is_whole_frame=True)
    fitted = _fitted(_outline(region))
    if fitted is None or not RADII[0] <= fitted.radius / max(region.shape) <= RADII[1]:
        return None
    inside = fitted.inside(region.shape)
    agreement = float((inside & region).sum() / max(1, (inside | region).sum()))
    if agreement < MIN_AGREEMENT:
        return None
    place = (np.array([fitted.row, fitted.column]) + 0.5) * step - 0.5
    return Disc(float(place[0]), float(place[1]), (fitted.radius + 0.5) * step - 0.5, agreement)


def blackened(pixels: Num[Array, "c h w"], disc: Disc) -> Num[Array, "c h w"]:
    """Return the photograph with zeros outside of its field of view."""
    return np.where(disc.inside(pixels.shape[1:]), pixels, np.zeros((), pixels.dtype))


def _averaged(values: Float[Array, "h w"], step: int) -> Float[Array, "i j"]:
    """Return the means of squares of `step` pixels; rows and columns left over at the end are ignored."""
    height, width = (size // step for size in values.shape)
    return values[: height * step, : width * step].reshape(height, step, width, step).mean(axis=(1, 3))


def _brightest_region(seen: Float[Array, "h w"]) -> Bool[Array, "h w"] | None:
    from scipy.ndimage import binary_fill_holes, gaussian_filter, label

    smooth = gaussian_filter(seen, max(seen.shape) / SEARCHED)
    dark, light = np.percentile(smooth, (1, 90))
    if not light > 0:
        return None
    if dark > DARK_LEVEL * light:
        return np.ones(seen.shape, bool)
    regions, num_regions = label(smooth > dark + DARK_SHARE * (light - dark))
    if num_regions == 0:
        return None
    largest = 1 + int(np.argmax(np.bincount(regions.ravel())[1:]))
    return np.asarray(binary_fill_holes(regions == largest))


def _outline(region: Bool[Array, "h w"]) -> Float[Array, "n 2"]:
    """Return points (row, column) of the outline, except along edges where the frame cuts the region off."""
    points = []
    for axis in (0, 1):
        lines = region if axis == 0 else region.T
        length = lines.shape[1]
        for number in np.flatnonzero(lines.any(axis=1)):
            inside = np.flatnonzero(lines[number])
            points += [(number, end)[:: 1 - 2 * axis] for end in (inside[0], inside[-1]) if 0 < end < length - 1]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _fitted(points: Float[Array, "n 2"]) -> Disc | None:
    """Fit a disc to points on its edge (Kasa 1976, least squares), twice, the second time without outliers."""
    for keep in (0.9, 0.9, 1.0):
        if len(points) < MIN_OUTLINE:
            return None
        system = np.column_stack([2.0 * points, np.ones(len(points))])
        (row, column, rest), *_ = np.linalg.lstsq(system, (points**2).sum(axis=1), rcond=None)
        squared = rest + row**2 + column**2
        if not squared > 0:
            return None
        disc = Disc(float(row), float(column), float(np.sqrt(squared)))
        off = np.abs(np.hypot(points[:, 0] - row, points[:, 1] - column) - disc.radius)
        points = points[off <= np.quantile(off, keep)]
    return disc
