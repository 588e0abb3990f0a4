"""Separation of parallel stacks in one series by their in-plane offset, where no element identifies them.

Two hips or two knees, or the disks of a spine, are often one series of parallel planes without (0020,9056) StackID.
Planes of the same stack are aligned along the normal; planes of different stacks are shifted within the plane. A tilted
gantry also shifts planes, but each plane a little more than the previous one, so that no planes are aligned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.dicom.header import Header
from medvit.errors import GeometryError
from medvit.geometry import SHEAR_TOLERANCE_MM
from medvit.series.volume import POSITION_TOLERANCE_MM, axes_of, slice_spacing_mm

MIN_PLANES = 3
"""Minimum number of distinct positions in a stack; with two planes, evenness of spacing cannot be checked."""
MIN_SHIFT_MM = 10.0
"""Minimum in-plane distance between stacks; patient motion, or drift between scans, shifts planes by less."""


def side_by_side(planes: Sequence[Header]) -> list[list[Header]]:
    """Return the stacks that a series of parallel planes consists of.

    The planes of a stack are aligned along the normal and evenly spaced. Different stacks are shifted within the plane.
    Stacks are ordered along the rows, then along the columns. All planes are returned as one stack in doubtful cases:
    if a group has fewer than `MIN_PLANES` planes or uneven gaps, or if groups are less than `MIN_SHIFT_MM` apart.
    """
    row, column, normal = axes_of(planes[0].orientation)
    positions = np.array([plane.position_mm for plane in planes])
    beside = positions - np.outer(positions @ normal, normal)
    first = [0]
    numbers = np.where(np.linalg.norm(beside - beside[0], axis=1) <= SHEAR_TOLERANCE_MM, 0, -1)
    if not numbers.any():
        return [list(planes)]
    while (numbers < 0).any():
        first.append(int(np.argmin(numbers)))
        is_near = np.linalg.norm(beside - beside[first[-1]], axis=1) <= SHEAR_TOLERANCE_MM
        numbers[is_near & (numbers < 0)] = len(first) - 1
        if len(first) * MIN_PLANES > len(planes):
            return [list(planes)]
    shifts = [np.linalg.norm(beside[m] - beside[n]) for k, m in enumerate(first) for n in first[:k]]
    stacks = [np.flatnonzero(numbers == k) for k in range(len(first))]
    stacks.sort(key=lambda stack: (round(float(beside[stack[0]] @ row)), round(float(beside[stack[0]] @ column))))
    is_plain = all(shift >= MIN_SHIFT_MM for shift in shifts) and all(_is_even(positions[s] @ normal) for s in stacks)
    return [[planes[int(n)] for n in stack] for stack in stacks] if is_plain else [list(planes)]


def _is_even(distances: Float[Array, "planes"]) -> bool:
    """Return whether there are enough distances for a stack, evenly spaced; equal distances count once."""
    ordered = np.sort(distances)
    apart = ordered[np.concatenate([[True], np.diff(ordered) > POSITION_TOLERANCE_MM])]
    if len(apart) < MIN_PLANES:
        return False
    try:
        slice_spacing_mm(apart[:, None], np.ones(1))
    except GeometryError:
        return False
    return True
