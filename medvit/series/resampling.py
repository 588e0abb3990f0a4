"""Handling of slices that do not form a regular grid: refuse, resample to a regular grid, or keep as 2D images.

Resampling first shifts each slice within its plane onto a straight stack (which corrects the shear of a tilted gantry),
then interpolates linearly along the slice normal to evenly spaced slices. Large gaps between slices are not filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Num
from numpy import ndarray as Array

from medvit.dicom.header import Header
from medvit.errors import GeometryError
from medvit.geometry import Affine, lps_to_ras
from medvit.measured import measured, not_measured
from medvit.records import Padding
from medvit.series.volume import ascending

Geometry = Literal["refuse", "resample", "slices"]
"""Handling of a series whose slices do not form one regular grid."""

RESAMPLED = "resampled to a regular grid"
"""Name of the part of a resampled volume."""

MAX_GAP_RATIO = 4.0
"""Largest gap that is bridged, as a multiple of the typical gap: up to three slices in a row may be missing."""

MAX_DRIFT = 1.0
"""Largest shift of slices within their plane, relative to the field of view."""

WHOLE_PIXEL = 1e-3
"""Shifts closer to whole pixels than this are not interpolated."""


@dataclass(frozen=True)
class ResamplingGrid:
    """Positions of irregular slices on a regular grid.

    `order` lists the planes by distance along the normal. `shifts` (planes, 2) gives the (columns, rows) by which each
    plane is shifted on the grid of `shape` (columns, rows, slices). `heights` (planes,) gives the position of each
    plane along the slice axis, in grid steps.
    """

    order: tuple[int, ...]
    shifts: Float[Array, "planes 2"]
    heights: Float[Array, "planes"]
    shape: tuple[int, int, int]
    affine: Affine


def layout(planes: Sequence[Header]) -> ResamplingGrid:
    """Return a regular grid for irregular slices, with their in-plane pixel size and the typical gap between them.

    Raises:
        GeometryError: If the slices cannot be resampled: they lack a position, differ in size, spacing or orientation,
            share a position, have a gap of more than `MAX_GAP_RATIO` times the typical gap, or drift by more than
            `MAX_DRIFT`.
    """
    ascent = ascending(planes)
    (row, column, normal), positions = ascent.axes, ascent.positions_mm
    distances = positions @ normal
    row_spacing, column_spacing = planes[0].spacing_mm or (0.0, 0.0)
    num_slices, step_mm = _even(distances)
    offsets = (positions - positions[0]) @ np.stack([row / column_spacing, column / row_spacing], axis=1)
    offsets = np.where(np.abs(offsets) < WHOLE_PIXEL, 0.0, offsets)
    size = np.array([planes[0].columns, planes[0].rows])
    if (np.ptp(offsets, axis=0) > MAX_DRIFT * size).any():
        raise GeometryError(
            "slices are shifted by more than a field of view against each other; they do not fit one grid"
        )
    low, high = np.floor(offsets.min(axis=0)), np.ceil(offsets.max(axis=0))
    columns, rows = (size + (high - low)).astype(int)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = row * column_spacing, column * row_spacing, normal * step_mm
    matrix[:3, 3] = positions[0] + matrix[:3, :2] @ low
    heights = (distances - distances[0]) / step_mm
    return ResamplingGrid(
        tuple(int(n) for n in ascent.order),
        offsets - low,
        heights,
        (int(columns), int(rows), num_slices),
        Affine(lps_to_ras(matrix)),
    )


def resample(
    slices: Sequence[Num[Array, "h w"]], grid: ResamplingGrid, padding: Padding | None = None
) -> Num[Array, "i j k"]:
    """Return slices, given in the order of `grid.order`, as voxels (columns, rows, slices) of the same type.

    Interpolation is linear within planes and along the normal, and uses measured pixels only (normalized convolution);
    integers are rounded. A voxel becomes padding (NaN in floating point) if it requires a pixel outside the slices, or
    if most of its weight is on pixels that are padding or non-finite. If no padding is declared, the voxel gets the
    lowest measured value of the volume.
    """
    stored, lost = slices[0].dtype, [not_measured(one, padding) for one in slices]
    outside = _outside(slices, padding)
    gap = float("nan") if padding is None and np.issubdtype(stored, np.floating) else outside
    voxels = np.empty(grid.shape, dtype=stored)
    placed: dict[int, _Moved] = {}
    for k in range(grid.shape[2]):
        above = min(int(np.searchsorted(grid.heights, k - WHOLE_PIXEL)), len(slices) - 1)
        below = max(above - 1, 0)
        # Only two slices are in memory at a time, in the order of use.
        placed = {
            n: placed[n] if n in placed else _moved_with_gaps(slices[n], lost[n], grid.shifts[n], grid)
            for n in (below, above)
        }
        span = grid.heights[above] - grid.heights[below]
        weight = 1.0 if span <= 0.0 else float(np.clip((k - grid.heights[below]) / span, 0.0, 1.0))
        pair = (placed[above], placed[above]) if weight > 1.0 - WHOLE_PIXEL else (placed[below], placed[above])
        mixed, is_gap = _mixed(*pair, weight)
        known = np.isfinite(mixed)
        mixed = np.where(known, mixed, 0.0)
        made = np.where(known, np.rint(mixed) if np.issubdtype(stored, np.integer) else mixed, outside)
        voxels[:, :, k] = made if is_gap is None else np.where(known & is_gap, gap, made)
    return voxels


@dataclass(frozen=True)
class _Moved:
    """Slice after a shift within its plane; values are NaN outside of the slice.

    `share` is the fraction of each pixel that comes from measured pixels; None if all pixels were measured.
    """

    values: Float[Array, "i j"]
    share: Float[Array, "i j"] | None = None


def _mixed(below: _Moved, above: _Moved, weight: float) -> tuple[Float[Array, "i j"], Bool[Array, "i j"] | None]:
    """Return values interpolated between two slices.

    The second result is a mask of the pixels that come mostly from unmeasured pixels; None if there are no unmeasured
    pixels.
    """

    def between(one: Float[Array, "i j"], other: Float[Array, "i j"]) -> Float[Array, "i j"]:
        return one if one is other else (1.0 - weight) * one + weight * other

    values = between(below.values, above.values)
    if below.share is None and above.share is None:
        return values, None
    shares = [np.ones_like(one.values) if one.share is None else one.share for one in (below, above)]
    share = shares[0] if below is above else between(*shares)
    return values / np.maximum(share, 0.5), share < 0.5


def _outside(slices: Sequence[Num[Array, "h w"]], padding: Padding | None) -> float:
    if padding is not None:
        return padding[0]
    return min((values.min() for values in map(measured, slices) if values.size), default=0)


def _moved_with_gaps(
    pixels: Num[Array, "h w"], lost: Bool[Array, "h w"] | None, shift: Float[Array, "2"], grid: ResamplingGrid
) -> _Moved:
    if lost is None:
        return _Moved(_moved(pixels, shift, grid))
    share = _moved((~lost).astype(np.float64), shift, grid)
    return _Moved(_moved(np.where(lost, 0.0, pixels), shift, grid), share)


def _even(distances: Float[Array, "planes"]) -> tuple[int, float]:
    """Return the number of evenly spaced slices that replace the given ones, and the distance between them.

    The distance is about one typical gap.
    """
    gaps = np.diff(distances)
    usual = float(np.median(gaps))
    if gaps.max() > MAX_GAP_RATIO * usual:
        raise GeometryError(
            f"slices are up to {gaps.max():.2f} mm apart, usually {usual:.2f} mm; "
            f"expected gaps up to {MAX_GAP_RATIO:g} times the usual one, since larger ones are not interpolated"
        )
    extent = float(distances[-1] - distances[0])
    num_steps = max(1, round(extent / usual))
    return num_steps + 1, extent / num_steps


def _moved(pixels: Num[Array, "h w"], shift: Float[Array, "2"], grid: ResamplingGrid) -> Float[Array, "i j"]:
    """Return pixels (columns, rows) shifted by (columns, rows) within the plane of a grid; NaN outside the slice."""
    columns, rows, _ = grid.shape
    plane = np.full((columns + 1, rows + 1), np.nan)
    left, top = whole = np.floor(shift + WHOLE_PIXEL).astype(int)
    plane[left : left + pixels.shape[1], top : top + pixels.shape[0]] = pixels.T
    for axis, part in enumerate(shift - whole):
        if part > WHOLE_PIXEL:
            plane = (1.0 - part) * plane + part * np.roll(plane, 1, axis=axis)
    return plane[:columns, :rows]
