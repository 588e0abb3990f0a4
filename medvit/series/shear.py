"""Resampling of sheared volumes to a right-angled grid, which keeps their first axis and first plane."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Num
from numpy import ndarray as Array

from medvit.geometry import Affine

CLOSE = 1e-3
"""Tolerance, in voxels, by which a grid may end before the last voxel of its source."""


def straightened(
    voxels: Num[Array, "i j k"], affine: Affine, interpolation: Literal["linear", "nearest"]
) -> tuple[Num[Array, "a b d"], Affine]:
    """Return voxels interpolated on the right-angled grid that contains the whole sheared volume, in their type.

    Voxels outside the source volume get its lowest value. Label maps use nearest-neighbor interpolation and get 0
    outside.
    """
    from scipy.ndimage import affine_transform

    shape, straight = straight_grid(voxels.shape, affine)
    step = affine.inverse() @ straight
    is_nearest = interpolation == "nearest"
    moved = affine_transform(
        voxels if is_nearest else voxels.astype(np.float64),
        step.matrix[:3, :3],
        step.matrix[:3, 3],
        output_shape=shape,
        order=0 if is_nearest else 1,
        mode="constant",
        cval=0 if is_nearest else float(voxels.min()),
    )
    return (np.rint(moved) if np.issubdtype(voxels.dtype, np.integer) else moved).astype(voxels.dtype), straight


def straight_grid(shape: tuple[int, ...], affine: Affine) -> tuple[tuple[int, int, int], Affine]:
    """Return shape and affine of the right-angled grid that contains all voxels of a sheared one.

    Plane spacing is kept.
    """
    steps = affine.matrix[:3, :3]
    directions, _ = np.linalg.qr(steps)
    directions = directions * np.sign((directions * steps).sum(axis=0))
    spacing: Float[Array, "3"] = (directions * steps).sum(axis=0)
    corners = np.array(np.meshgrid(*((0, n - 1) for n in shape), indexing="ij")).reshape(3, -1)
    places = (directions.T @ steps @ corners) / spacing[:, None]
    low, high = np.floor(places.min(axis=1) + CLOSE), np.ceil(places.max(axis=1) - CLOSE)
    matrix = np.eye(4)
    matrix[:3, :3] = directions * spacing
    matrix[:3, 3] = affine.matrix[:3, 3] + matrix[:3, :3] @ low
    i, j, k = (high - low).astype(int) + 1
    return (int(i), int(j), int(k)), Affine(matrix)
