"""Which voxels of an image were measured: those that are finite and not padding, and what stands in for the others.

The store keeps every voxel bit for bit. Whatever computes with intensities (flags, statistics, interpolation,
normalization) leaves out what was not measured, by the functions of this module, so that all of them agree.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Num
from numpy import ndarray as Array

from medvit.records import Padding


def not_finite(pixels: Num[Array, "*s"]) -> Bool[Array, "*s"] | None:
    """Where pixels are NaN, infinite or beyond float32; none where all are finite."""
    if not np.issubdtype(pixels.dtype, np.floating):
        return None
    with np.errstate(over="ignore"):
        found = ~np.isfinite(pixels.astype(np.float32, copy=False))
    return found if found.any() else None


def not_measured(pixels: Num[Array, "*s"], padding: Padding | None = None) -> Bool[Array, "*s"] | None:
    """Where pixels are not finite or, as stored, lie within the bounds of `padding`; none where all were measured."""
    found = not_finite(pixels)
    if padding is None:
        return found
    low, high = padding
    is_padding = (pixels >= low) & (pixels <= high)
    if not is_padding.any():
        return found
    return is_padding if found is None else is_padding | found


def measured(pixels: Num[Array, "*s"], padding: Padding | None = None) -> Num[Array, "n"]:
    """The values that were measured, in one dimension."""
    lost = not_measured(pixels, padding)
    return pixels.ravel() if lost is None else pixels[~lost]


def filled(
    pixels: Num[Array, "*s"], padding: Padding | None = None, *, slope: float = 1.0, intercept: float = 0.0
) -> Num[Array, "*s"]:
    """Pixels, in their type, with a background in place of what was not measured; themselves where all were.

    Padding becomes the lowest measured intensity. So do NaN and -inf, unless an intensity of 0 lies within the measured
    ones: then they become 0, since SPM and FSL write NaN for zero outside of the brain. +inf becomes the highest.
    """
    lost = not_measured(pixels, padding)
    if lost is None:
        return pixels
    values = pixels[~lost]
    made = pixels.copy()
    if not values.size:
        made[lost] = 0
        return made
    ends = values.min(), values.max()
    lowest, highest = ends if slope > 0 else ends[::-1]
    made[lost] = lowest
    infinite = not_finite(pixels)
    if infinite is not None:
        zero = -intercept / slope
        made[infinite] = zero if ends[0] <= zero <= ends[1] else lowest
        made[pixels == np.inf] = highest if slope > 0 else lowest
        made[pixels == -np.inf] = lowest if slope > 0 else highest
    return made
