"""Uncompressed gray frames of a data set, read without a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

if TYPE_CHECKING:
    from pydicom import Dataset

NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
"""Implicit and explicit little endian (PS3.5 A.1, A.2)."""

TYPES = {(8, 0): "u1", (8, 1): "i1", (16, 0): "<u2", (16, 1): "<i2", (32, 0): "<u4", (32, 1): "<i4"}
"""(0028,0100) BitsAllocated and (0028,0103) PixelRepresentation -> the type of (7FE0,0010) PixelData."""


def native(dataset: Dataset) -> Int[Array, "h w"] | None:
    """Return the single gray frame of a data set, possibly a read-only view; None if it needs a decoder.

    A general decoder returns the same values, but takes ten times as long.
    """
    is_plain = dataset.file_meta.get("TransferSyntaxUID") in NATIVE and dataset.get("SamplesPerPixel") == 1
    if not is_plain or int(dataset.get("NumberOfFrames") or 1) != 1:
        return None
    kind = TYPES.get((dataset.get("BitsAllocated"), dataset.get("PixelRepresentation")))
    rows, columns, content = dataset.get("Rows"), dataset.get("Columns"), dataset.get("PixelData")
    if kind is None or not rows or not columns or not isinstance(content, bytes | memoryview):
        return None
    num_bytes = rows * columns * np.dtype(kind).itemsize
    if len(content) != num_bytes + num_bytes % 2:  # values have an even length (PS3.5 7.1.1)
        return None
    bits = int(dataset.get("BitsStored") or 0)
    if not 0 < bits <= 8 * np.dtype(kind).itemsize:
        return None
    return as_it_lies(content, kind, bits=bits, shape=(rows, columns))


def as_it_lies(content: bytes | memoryview, kind: str, *, bits: int, shape: tuple[int, int]) -> Int[Array, "h w"]:
    """Return a frame of one of `TYPES` from the start of a byte buffer, possibly as a view.

    Only the low `bits` of each value are kept.
    """
    stored = np.require(np.frombuffer(content, kind, count=shape[0] * shape[1]), requirements="A").reshape(shape)
    cleared = _cleared(stored, bits)
    return cleared.astype(cleared.dtype.newbyteorder("="), copy=False)


def _cleared(stored: Int[Array, "h w"], bits: int) -> Int[Array, "h w"]:
    """Clear the bits above the `bits` bits of the value, because they may contain an overlay.

    In signed values, these upper bits are set to the sign bit.
    """
    unused = 8 * stored.dtype.itemsize - bits
    is_signed = np.issubdtype(stored.dtype, np.signedinteger)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    if not unused or (stored.max() <= high and (not is_signed or stored.min() >= low)):
        return stored
    return np.right_shift(np.left_shift(stored, unused), unused)
