"""Regular volumes from DICOM planes: grouping, order along the slice normal, and geometry checks.

Order and distances come from (0020,0032) ImagePositionPatient projected on the slice normal (PS3.3 C.7.6.2.1.1);
SliceThickness and SliceLocation are never used: slices may overlap or leave gaps.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.dicom.header import Header
from medvit.errors import GeometryError
from medvit.geometry import AXIS_TOLERANCE, SHEAR_TOLERANCE_MM, Affine, lps_to_ras
from medvit.records import patients_of

GAP_TOLERANCE_MM = 0.1
"""Largest tolerated difference between slice gaps, but at most a quarter of the usual gap.

Positions are often rounded to 0.1 mm.
"""

GAP_TOLERANCE = 0.02
"""Largest tolerated difference between slice gaps, as a share of the usual gap.

The larger of both tolerances applies, because scanners round the positions of thick slices more coarsely.
"""

POSITION_TOLERANCE_MM = 0.01
"""Distance below which two slices count as being at the same position, but at most a quarter of a pixel.

The second limit is for B-scans of OCT, which may be very close together.
"""

SPACING_TOLERANCE_MM = 1e-3
"""Largest difference in pixel spacing between slices of one series."""


@dataclass(frozen=True)
class SliceStack:
    """Slices in ascending order along the slice normal, and their grid.

    `affine` maps (column, row, slice) to RAS+ mm, before axes are permuted or flipped to RAS+ order.
    """

    headers: tuple[Header, ...]
    affine: Affine


def group(headers: Iterable[Header]) -> list[list[Header]]:
    """Group headers by series, in order of first appearance.

    Series of different patients or studies are never joined, whatever their UIDs.

    If (0020,000E) SeriesInstanceUID is missing, instances of one folder with equal size, orientation, spacing and
    description form a series. The identifier of such a series is derived from the contents (`"derived-"` and a hash),
    independently of the location of the folder.
    """
    found = list(headers)
    groups: dict[tuple[object, ...], list[Header]] = {}
    for header, patient in zip(found, patients_of(found), strict=True):
        groups.setdefault((patient, *_series_key(header)), []).append(header)
    return [_identified(series) for series in groups.values()]


def arrange(headers: Sequence[Header]) -> SliceStack:
    """Return the slices of one regular volume in order.

    Raises:
        GeometryError: If an element is missing, slices differ in size, orientation or spacing, several are at one
            position (a time or echo series), the stack is sheared (gantry tilt), or gaps differ by more than
            both `GAP_TOLERANCE_MM` and `GAP_TOLERANCE`.
    """
    ascent = ascending(headers)
    axes, positions = ascent.axes, ascent.positions_mm
    _check_straight(positions, axes.normal)
    slice_spacing_mm(positions, axes.normal)

    row_spacing, column_spacing = headers[0].spacing_mm or (0.0, 0.0)
    matrix = np.eye(4)
    matrix[:3, 0] = axes.row * column_spacing  # the next column is along the row
    matrix[:3, 1] = axes.column * row_spacing
    matrix[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    matrix[:3, 3] = positions[0]
    return SliceStack(tuple(headers[n] for n in ascent.order), Affine(lps_to_ras(matrix)))


class Axes(NamedTuple):
    """Directions of a row and of a column, and their cross product, the slice normal, in LPS."""

    row: Float[Array, "3"]
    column: Float[Array, "3"]
    normal: Float[Array, "3"]


@lru_cache(64)
def axes_of(orientation: tuple[float, ...] | None) -> Axes:
    """Return the axes of (0020,0037) ImageOrientationPatient; cached, as all planes of a stack share them."""
    row, column = np.array(orientation).reshape(2, 3)
    axes = Axes(row, column, np.cross(row, column))
    for axis in axes:
        axis.flags.writeable = False
    return axes


@dataclass(frozen=True)
class Ascent:
    """Planes of equal orientation, sorted along their normal.

    `order` has the index of each plane among the given ones; `positions_mm` (planes, 3) are the sorted positions in
    LPS.
    """

    axes: Axes
    order: Int[Array, "planes"]
    positions_mm: Float[Array, "planes 3"]


def ascending(headers: Sequence[Header]) -> Ascent:
    """Sort planes in ascending order along their slice normal.

    Raises:
        GeometryError: If an element is missing, planes differ in size, orientation or spacing, or share a position.
    """
    _check_present(headers)
    _check_alike(headers)
    axes = axes_of(headers[0].orientation)
    _check_upright(axes)
    positions = np.array([header.position_mm for header in headers])
    order = np.argsort(positions @ axes.normal, kind="stable")
    _check_distinct(positions[order] @ axes.normal, position_tolerance_mm(headers))
    return Ascent(axes, order, positions[order])


def slice_spacing_mm(positions: Float[Array, "slices 3"], normal: Float[Array, "3"]) -> float:
    """Return the distance between neighboring slices in mm; `positions` ascend along `normal`.

    Raises:
        GeometryError: If gaps differ by more than `GAP_TOLERANCE_MM` and `GAP_TOLERANCE`, as when a slice is missing.
    """
    gaps = np.diff(positions @ normal)
    low, high = float(gaps.min()), float(gaps.max())
    usual = median(gaps.tolist())
    tolerance = min(max(GAP_TOLERANCE_MM, GAP_TOLERANCE * usual), usual / 4.0)
    heights = np.concatenate([[0.0], np.cumsum(gaps)])
    stray = float(np.abs(heights - np.linspace(0.0, heights[-1], len(heights))).max())
    if high - low > tolerance + 1e-6 or (high - low > GAP_TOLERANCE_MM + 1e-6 and stray > tolerance + 1e-6):
        raise GeometryError(
            f"slice gaps range from {low:.2f} to {high:.2f} mm; expected equal gaps (tolerance {tolerance:.3g} mm): "
            "are slices missing? geometry=resample interpolates them at even steps"
        )
    return float(gaps.mean())


def _check_present(headers: Sequence[Header]) -> None:
    """Check that all slices have a position, an orientation and a pixel spacing.

    Raises:
        GeometryError: If position, orientation or pixel spacing is missing or invalid in any slice.
    """
    wanted = {
        "(0028,0030) PixelSpacing": [header.spacing_mm for header in headers],
        "(0020,0032) ImagePositionPatient": [header.position_mm for header in headers],
        "(0020,0037) ImageOrientationPatient": [header.orientation for header in headers],
    }
    for element, values in wanted.items():
        if not all(map(_is_stated, set(values))):
            num_lacking = len(values) - sum(map(_is_stated, values))
            raise GeometryError(f"no {element} in {num_lacking} of {len(headers)} slices; their position is unknown")
    if any(min(header.spacing_mm or ()) <= 0.0 for header in headers):
        raise GeometryError("(0028,0030) PixelSpacing is zero or negative; expected millimeters above zero")


def _is_stated(place: tuple[float, ...] | None) -> bool:
    return place is not None and all(map(math.isfinite, place))


def _check_alike(headers: Sequence[Header]) -> None:
    """Check that all slices have the same size, orientation and pixel spacing.

    Raises:
        GeometryError: If slices differ.
    """
    sizes = Counter((header.rows, header.columns) for header in headers)
    if len(sizes) > 1:
        found = ", ".join(f"{count} of {rows} x {columns}" for (rows, columns), count in sizes.most_common(3))
        raise GeometryError(f"slices of {len(sizes)} sizes in one series ({found}); expected one size")
    orientations = _different([header.orientation for header in headers])
    if np.abs(orientations - orientations[0]).max() > AXIS_TOLERANCE:
        raise GeometryError(f"slices of {_number_of(orientations)} orientations in one series; expected one")
    spacings = _different([header.spacing_mm for header in headers])
    if np.ptp(spacings, axis=0).max() > SPACING_TOLERANCE_MM:
        raise GeometryError(
            f"pixel spacings {spacings.min():.4f} to {spacings.max():.4f} mm in one series; expected one"
        )


def _different(values: Sequence[tuple[float, ...] | None]) -> Float[Array, "values n"]:
    """Return the distinct values, of which there is usually only one."""
    return np.array(list(dict.fromkeys(values)))


def _number_of(orientations: Float[Array, "slices 6"]) -> int:
    return len(np.unique(np.round(orientations, 2), axis=0))


def _check_upright(axes: Axes) -> None:
    """Check that the directions are unit vectors at a right angle.

    Raises:
        GeometryError: If the directions are not unit vectors, or not at a right angle.
    """
    frame = np.array(axes[:2]) @ np.array(axes[:2]).T
    if np.abs(frame - np.eye(2)).max() > AXIS_TOLERANCE:
        raise GeometryError("(0020,0037) ImageOrientationPatient is not two unit vectors at a right angle")


def position_tolerance_mm(headers: Sequence[Header]) -> float:
    """Return the distance in mm below which two slices count as being at the same position."""
    sides = {side for spacing in {header.spacing_mm for header in headers} for side in spacing or ()}
    return min([POSITION_TOLERANCE_MM, *(side / 4 for side in sides if side > 0)])


def _check_distinct(distances: Float[Array, "slices"], tolerance_mm: float) -> None:
    """Check that all slices have different positions; `distances` ascend along the slice normal, in mm.

    Raises:
        GeometryError: If two slices are closer to each other than the tolerance.
    """
    is_new = np.concatenate([[True], np.diff(distances) > tolerance_mm])
    counts = np.bincount(np.cumsum(is_new) - 1)
    if counts.max() > 1:
        low, high = counts.min(), counts.max()
        positions = "1 position has" if len(counts) == 1 else f"{len(counts)} positions have"
        each = f"{low} to {high} instances" if low < high else f"{high} instances" + " each" * (len(counts) > 1)
        raise GeometryError(f"{positions} {each}; expected one per position: split the time points or echoes")


def _check_straight(positions: Float[Array, "slices 3"], normal: Float[Array, "3"]) -> None:
    steps = positions - positions[0]
    drift_mm = float(np.linalg.norm(steps - np.outer(steps @ normal, normal), axis=1).max())
    if drift_mm > SHEAR_TOLERANCE_MM:
        raise GeometryError(
            f"slices drift {drift_mm:.2f} mm sideways from the first to the last (gantry tilt); "
            f"expected a straight stack within {SHEAR_TOLERANCE_MM} mm; medvit ingest geometry=resample corrects the "
            "tilt"
        )


def _series_key(header: Header) -> tuple[object, ...]:
    if header.series:
        return header.series, header.study
    directions = header.orientation and tuple(round(cosine, 3) for cosine in header.orientation)
    size = (header.rows, header.columns, header.spacing_mm, directions)
    return (header.file.parent, header.study, header.modality, header.description, size)


def _identified(series: list[Header]) -> list[Header]:
    if series[0].series:
        return series
    content = sorted(header.instance or f"{header.position_mm} {header.number} {header.num_bytes}" for header in series)
    first = series[0]
    words = (first.patient, first.study, first.modality, f"{first.rows}x{first.columns}", *content)
    derived = "derived-" + hashlib.sha256("\n".join(words).encode()).hexdigest()[:24]
    return [replace(header, series=derived, study=header.study or derived) for header in series]
