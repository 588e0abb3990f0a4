"""Display of gray values as the file defines it, by its VOI table or its first window (PS3.3 C.11.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, UInt
from numpy import ndarray as Array

from medvit.dicom.lookup_tables import LookupTable, lookup_table
from medvit.dicom.modality_lut import groups, number
from medvit.errors import UnreadableError

if TYPE_CHECKING:
    from pydicom import Dataset

DISPLAYED_MAX = 2**16 - 1
"""Brightest displayed value; the darkest is 0."""


def displayed(
    real: Float[Array, "h w"],
    dataset: Dataset,
    index: int,
    *,
    is_little: bool,
    gaps: Bool[Array, "h w"] | None = None,
) -> UInt[Array, "h w"] | None:
    """Return the real values of a frame as the file displays them, from 0 to `DISPLAYED_MAX`, before any inversion.

    A VOI table has precedence over windows. If the file has several windows, the first one is used. If the file has
    neither a table nor a window, return None. Pixels in `gaps` are padding: their output is arbitrary, and they do not
    affect other pixels.

    Raises:
        UnreadableError: If the window has no width, if its function is not defined in DICOM, or if the table is
            damaged.
    """
    for item in (dataset.get("VOILUTSequence") or ())[:1]:
        is_signed = bool((real < 0 if gaps is None else (real < 0) & ~gaps).any())
        table = lookup_table(item, is_little=is_little, is_signed=is_signed)
        return _quantized(table(np.rint(real)).astype(np.float64) / _brightest(table))
    window = _window(dataset, index)
    if window is None:
        return None
    center, width = number(window, "WindowCenter"), number(window, "WindowWidth")
    if center is None or width is None:
        return None
    return _quantized(_windowed(real.astype(np.float64), center, width, str(window.get("VOILUTFunction") or "LINEAR")))


def _brightest(table: LookupTable) -> int:
    """Return the table entry that is displayed as white.

    This is the largest value that the declared bits allow. If all entries are below half of that value, it is the
    largest entry instead: many tables declare 16 bits but use only 12, and images would be 16 times too dark.
    """
    allowed, largest = 2**table.bits - 1, int(table.entries.max())
    return largest if 0 < largest < allowed / 2 else allowed


def _window(dataset: Dataset, index: int) -> Dataset | None:
    for group in groups(dataset, index):
        for item in (group.get("FrameVOILUTSequence") or ())[:1]:
            return item
    return dataset if dataset.get("WindowCenter") not in (None, "") else None


def _windowed(real: Float[Array, "h w"], center: float, width: float, function: str) -> Float[Array, "h w"]:
    """Return display values: 0 below the window, 1 above it, and in between by the function of the window."""
    # PS3.3 C.11.2.1.2.1: the width of LINEAR counts values from the first shown as black to the first shown as white.
    if function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    if width < 0.0 or (width == 0.0 and function != "LINEAR"):
        raise UnreadableError("(0028,1051) WindowWidth is too small for a window; expected 1 or more")
    if function in ("LINEAR", "LINEAR_EXACT"):
        if width == 0.0:
            return (real > center).astype(np.float64)
        return np.clip((real - center) / width + 0.5, 0.0, 1.0)
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (real - center) / width, -700.0, 700.0)))
    raise UnreadableError("(0028,1056) VOILUTFunction is neither LINEAR, LINEAR_EXACT nor SIGMOID")


def _quantized(shown: Float[Array, "h w"]) -> UInt[Array, "h w"]:
    return np.rint(np.clip(shown, 0.0, 1.0) * DISPLAYED_MAX).astype(np.uint16)
