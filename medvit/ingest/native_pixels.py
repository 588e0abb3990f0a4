"""Uncompressed pixel data without what is not pixels: bytes behind the last one, overlays in unused bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

OVERLAY_GROUPS = range(0x6000, 0x6020, 2)


def tidy(copy: Dataset, source: Dataset) -> None:
    """Cuts (7FE0,0010) PixelData of a data set to its length, and clears overlays that `source` keeps in its bits.

    Pixels that hold nothing else stay byte for byte as they were.
    """
    from pydicom.pixels.utils import get_expected_length

    if any(copy.get(key) is None for key in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")):
        return
    if copy.get("PhotometricInterpretation") is None:
        return
    length = get_expected_length(copy)
    length += length % 2
    pixels = copy.PixelData
    if len(pixels) > length:
        copy["PixelData"].value = pixels[:length]
    if _has_embedded_overlay(source):
        copy["PixelData"].value = _without_unused_bits(copy)


def _has_embedded_overlay(dataset: Dataset) -> bool:
    """Overlays of before 2004: their plane is a bit of each pixel (PS3.3 C.9.2, retired)."""
    return any(
        (group, 0x0102) in dataset and (group, 0x3000) not in dataset and int(dataset[group, 0x0102].value or 0) > 0
        for group in OVERLAY_GROUPS
    )


def _without_unused_bits(copy: Dataset) -> bytes:
    allocated, stored = int(copy.BitsAllocated), int(copy.BitsStored)
    if allocated not in (8, 16, 32) or stored >= allocated:
        return bytes(copy.PixelData)
    is_signed = bool(copy.get("PixelRepresentation"))
    order = "<" if copy.is_little_endian in (True, None) else ">"
    pixels = np.frombuffer(copy.PixelData, dtype=f"{order}{'i' if is_signed else 'u'}{allocated // 8}")
    spare = allocated - stored
    # Shifting up and down again clears the unused bits, and repeats the sign where there is one.
    return ((pixels << spare) >> spare).astype(pixels.dtype).tobytes()
