"""Measured voxels of an image (finite and not padding), and the values that replace unmeasured ones.

The store preserves every voxel exactly. All computations on intensities (flags, statistics, interpolation,
normalization) use the functions of this module and therefore exclude the same voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Num
from numpy import ndarray as Array

from medvit.errors import UnsupportedError
from medvit.records import Padding

ROUNDING = 1e-5
"""Maximum rounding error of a value in float32, as a share of the range of the image: less than one step of 16 bits."""


def not_finite(pixels: Num[Array, "*s"]) -> Bool[Array, "*s"] | None:
    """Return a mask of the pixels that are NaN, infinite or beyond the range of float32; None if all are finite."""
    if not np.issubdtype(pixels.dtype, np.floating):
        return None
    with np.errstate(over="ignore"):
        found = ~np.isfinite(pixels.astype(np.float32, copy=False))
    return found if found.any() else None


def narrowed(values: Num[Array, "*s"]) -> Num[Array, "*s"]:
    """Convert floating-point values of more than 32 bits as `narrowed_together` does; return other types unchanged."""
    return narrowed_together([values])[0]


def narrowed_together(parts: Sequence[Num[Array, "..."]]) -> list[Num[Array, "..."]]:
    """Convert the parts of one image (frames, slices) to float32, the type in which models compute.

    Integers and parts of at most 32 bits are returned unchanged. All other parts are converted to one common type,
    which depends on the values in all these parts. Whole numbers that float32 cannot represent (above 2^24) become
    integers and remain exact. Other values are rounded to float32 if the rounding error is at most `ROUNDING` of the
    range of the image. NaN and infinities remain; values beyond float32 become infinite and count as non-finite.

    Raises:
        UnsupportedError: If the rounding error is larger, as for small differences on a large offset.
    """
    is_wide = [part.dtype.kind == "f" and part.dtype.itemsize > 4 for part in parts]
    wide = [part for part, known in zip(parts, is_wide, strict=True) if known]
    narrow = iter(_narrowed_wide(wide)) if wide else iter(())
    return [next(narrow) if known else part for part, known in zip(parts, is_wide, strict=True)]


def _narrowed_wide(parts: Sequence[Float[Array, "..."]]) -> list[Num[Array, "..."]]:
    with np.errstate(over="ignore"):
        made = [part.astype(np.float32) for part in parts]
    known = [np.isfinite(one) for one in made]
    if not any((there & (one != part)).any() for part, one, there in zip(parts, made, known, strict=True)):
        return list(made)
    ends = [(part[there].min(), part[there].max()) for part, there in zip(parts, known, strict=True) if there.any()]
    low, high = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    if max(abs(low), abs(high)) < 2**63 and all(
        (part[there] == np.rint(part[there])).all() for part, there in zip(parts, known, strict=True)
    ):
        return _whole(parts, low, high, is_all=all(there.all() for there in known))
    for part, one, there in zip(parts, made, known, strict=True):
        if there.any():
            _check_rounding(one[there], part[there], low, high)
    return list(made)


def rounded(values: Float[Array, "*s"]) -> Float32[Array, "*s"]:
    """Return values as float32. Unlike in `narrowed`, large whole numbers are also rounded.

    Raises:
        UnsupportedError: If the conversion changes a value by more than `ROUNDING` of the range of the values.
    """
    made = values.astype(np.float32)
    known = np.isfinite(made)
    if known.any():
        _check_rounding(made[known], values[known], float(values[known].min()), float(values[known].max()))
    return made


def _check_rounding(made: Num[Array, "n"], values: Num[Array, "n"], low: float, high: float) -> None:
    error = float(np.abs(made - values).max())
    if error > (ROUNDING * (high - low) or ROUNDING * abs(low)):
        raise UnsupportedError(
            f"values between {low:.9g} and {high:.9g}, some of which float32 would change by {error:.2g}; expected "
            "values that 24 bits can separate: subtract their offset, or scale them, before saving"
        )


def _whole(parts: Sequence[Float[Array, "..."]], low: float, high: float, *, is_all: bool) -> list[Num[Array, "..."]]:
    if not is_all:
        raise UnsupportedError(
            f"whole numbers of {parts[0].dtype} above 2^24, which float32 would change, together with non-finite "
            "values, which integers cannot hold; expected one or the other"
        )
    needed = np.promote_types(np.min_scalar_type(int(low)), np.min_scalar_type(int(high)))
    chosen = needed if needed.kind in "iu" else np.dtype(np.int64)
    return [part.astype(chosen) for part in parts]


def not_measured(pixels: Num[Array, "*s"], padding: Padding | None = None) -> Bool[Array, "*s"] | None:
    """Return a mask of the pixels that are non-finite or whose stored value is within `padding`.

    Return None if all were measured.
    """
    found = not_finite(pixels)
    if padding is None:
        return found
    low, high = padding
    is_padding = (pixels >= low) & (pixels <= high)
    if not is_padding.any():
        return found
    return is_padding if found is None else is_padding | found


def measured(pixels: Num[Array, "*s"], padding: Padding | None = None) -> Num[Array, "n"]:
    """Return the measured values as a one-dimensional array."""
    lost = not_measured(pixels, padding)
    return pixels.ravel() if lost is None else pixels[~lost]


def filled(
    pixels: Num[Array, "*s"], padding: Padding | None = None, *, slope: float = 1.0, intercept: float = 0.0
) -> Num[Array, "*s"]:
    """Replace unmeasured pixels by a background value of the same type.

    If all pixels were measured, return the array itself.

    Padding becomes the lowest measured intensity. NaN and -inf become 0 if 0 is within the measured range, since SPM
    and FSL write NaN for zero outside the brain; otherwise they become the lowest measured intensity too. +inf becomes
    the highest one.
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
