"""Size and bit depth of a compressed frame, read from its codestream before decoding.

Decoders allocate memory for the declared size, so it must be checked first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from medvit.errors import UnreadableError

JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Markers that begin a frame of JPEG (ISO 10918-1, B.1.1.3) and of JPEG-LS (ISO 14495-1, C.1.1)."""

BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length: TEM, restart and start of image."""

J2K_START = b"\xff\x4f\xff\x51"
"""Start of codestream, directly followed by its size (ISO 15444-1, A.4.1 and A.5.1)."""


JPEG_XL_START, JPEG_XL_CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
"""Start of a JPEG XL codestream, and of the boxes that may contain one (ISO 18181-2)."""


@dataclass(frozen=True)
class Codestream:
    """Size and depth that a codestream declares."""

    rows: int
    columns: int
    samples: int
    bits: int
    is_signed: bool = False
    """Whether the stream declares signed values, as only JPEG 2000 can."""


def read_codestream(encoded: bytes) -> Codestream | None:
    """Return the size and bit depth that a JPEG, JPEG-LS or JPEG 2000 stream declares; None for other streams.

    Raises:
        UnreadableError: If the stream begins as one of these formats but ends before the declared size.
    """
    try:
        if encoded[:2] == b"\xff\xd8":
            return _jpeg(encoded)
        start = encoded[:256].find(J2K_START)
        return None if start < 0 else _jpeg_2000(encoded, start + 4)
    except (struct.error, IndexError):
        raise UnreadableError(
            "the compressed frame ends before the field that declares its size; the file is truncated"
        ) from None


def jpeg_xl_size(encoded: bytes) -> tuple[int, int] | None:
    """Return the rows and columns of a JPEG XL stream (ISO 18181-1, D.2), bare or in its container; None for others."""
    is_boxed = encoded[:12] == JPEG_XL_CONTAINER
    start = encoded.find(JPEG_XL_START, 0, None if is_boxed else len(JPEG_XL_START))
    if start < 0:
        return None
    bits, at = int.from_bytes(encoded[start + 2 : start + 16], "little"), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return bits >> (at - count) & (1 << count) - 1

    def side(is_small: int) -> int:
        return 8 * (take(5) + 1) if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    is_small = take(1)
    rows, ratio = side(is_small), take(3)
    up, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return rows, rows * up // down if ratio else side(is_small)


def _jpeg(encoded: bytes) -> Codestream:
    place = 2
    while True:
        if encoded[place] != 0xFF:
            raise UnreadableError(
                "the compressed frame begins as a JPEG stream, but its structure is not valid; the file is damaged"
            )
        marker = encoded[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker in BARE_MARKERS:
            place += 2
        elif marker in JPEG_FRAMES:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", encoded, place + 4)
            return Codestream(rows, columns, samples, bits)
        else:
            place += 2 + max(2, struct.unpack_from(">H", encoded, place + 2)[0])


def _jpeg_2000(encoded: bytes, place: int) -> Codestream:
    right, bottom, left, top = struct.unpack_from(">4I", encoded, place + 4)
    samples, depth = struct.unpack_from(">HB", encoded, place + 36)
    return Codestream(bottom - top, right - left, samples, (depth & 0x7F) + 1, bool(depth & 0x80))
