"""A DICOM file as a stream that makes nobody allocate more than it holds, whatever lengths a damaged header claims."""

from __future__ import annotations

import os
import struct
import zlib
from io import BufferedReader, FileIO
from pathlib import Path

from medvit.errors import UnreadableError
from medvit.files.limits import check_allowed

DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Deflated Explicit VR Little Endian (PS3.5 A.5): all that follows the file meta information is deflated."""

META_BYTES = 8192
"""Where the file meta information, of some hundred bytes, names the transfer syntax."""

CHUNK_BYTES = 2**20
LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT")
"""Value representations with a length of four bytes after two that are reserved (PS3.5 7.1.2)."""


class BoundedReader(BufferedReader):
    """Reads a file; a length beyond its end is cut to what is left before memory for it is taken."""

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(str(path)))  # a path as its name would make pydicom fail where it says a file is cut
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, all that is left if none or negative."""
        if size is not None and size > CHUNK_BYTES:
            size = min(size, max(self._size - self.tell(), 0))
        return super().read(size)


def check_inflated(stream: BufferedReader, start: int) -> None:
    """Passes a data set that is not deflated, or holds no more than `limits.check_allowed` lets pass.

    `start` is where the file meta information begins, after preamble and prefix.

    Raises:
        UnsupportedError: If it holds more.
        UnreadableError: If it cannot be inflated at all.
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
    """Where the elements of group 0002 end."""
    while head[place : place + 2] == b"\x02\0" and place + 12 <= len(head):
        if head[place + 4 : place + 6] in LONG_VRS:
            place += 12 + struct.unpack_from("<I", head, place + 8)[0]
        elif head[place + 4 : place + 6].isalpha():
            place += 8 + struct.unpack_from("<H", head, place + 6)[0]
        else:  # without value representation, which is against the standard
            place += 8 + struct.unpack_from("<I", head, place + 4)[0]
    return place
