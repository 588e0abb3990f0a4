"""DICOM file stream that limits reads to the size of the file, so a damaged length field causes no huge allocation."""

from __future__ import annotations

import os
import struct
import zlib
from io import BufferedReader, FileIO
from pathlib import Path

from medvit.errors import UnreadableError
from medvit.files.limits import check_allowed

DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Deflated Explicit VR Little Endian (PS3.5 A.5): everything after the file meta information is deflated."""

META_BYTES = 8192
"""Bytes to read for the file meta information (a few hundred bytes), which names the transfer syntax."""

CHUNK_BYTES = 2**20
LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT")
"""Value representations with a four-byte length after two reserved bytes (PS3.5 7.1.2)."""


class BoundedReader(BufferedReader):
    """File reader that, before allocating memory, shortens a requested length to the bytes left in the file."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            FileIO(str(path))
        )  # with a path as its name, pydicom would fail while reporting a truncated file
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return at most `size` bytes; all remaining bytes if `size` is None or negative."""
        if size is not None and size > CHUNK_BYTES:
            size = min(size, max(self._size - self.tell(), 0))
        return super().read(size)


def check_inflated(stream: BufferedReader, start: int) -> None:
    """Check that a deflated data set does not inflate to more bytes than `limits.check_allowed` allows.

    A data set that is not deflated is accepted. `start` is the offset of the file meta information, after preamble and
    prefix.

    Raises:
        UnsupportedError: If the inflated data set would be larger.
        UnreadableError: If the data set cannot be inflated.
    """
    stream.seek(0)
    head = stream.read(META_BYTES)
    if DEFLATED not in head:
        return
    stream.seek(_end_of_meta(head, start))
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    held_bytes = os.fstat(stream.fileno()).st_size
    num_bytes, rest = 0, b""
    while not inflate.eof and (packed := rest or stream.read(CHUNK_BYTES)):
        try:
            num_bytes += len(inflate.decompress(packed, CHUNK_BYTES))
        except zlib.error:
            raise UnreadableError("a deflated data set cannot be inflated; the file is damaged") from None
        rest = inflate.unconsumed_tail
        check_allowed(num_bytes, held_bytes)


def _end_of_meta(head: bytes, place: int) -> int:
    """Return the offset just past the last element of group 0002."""
    while head[place : place + 2] == b"\x02\0" and place + 12 <= len(head):
        if head[place + 4 : place + 6] in LONG_VRS:
            place += 12 + struct.unpack_from("<I", head, place + 8)[0]
        elif head[place + 4 : place + 6].isalpha():
            place += 8 + struct.unpack_from("<H", head, place + 6)[0]
        else:  # without value representation, which violates the standard
            place += 8 + struct.unpack_from("<I", head, place + 4)[0]
    return place
