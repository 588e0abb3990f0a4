"""What a header may claim: sizes are checked against the bytes that are there before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medvit.errors import UnreadableError, UnsupportedError

MAX_DEFLATE_RATIO = 1032
"""Deflate cannot shrink data further (zlib's technical notes); other codecs are held to it from 64 MiB on."""

ALWAYS_ALLOWED_BYTES = 64 * 2**20
"""A claim of this size is tried whatever the file's size: an empty slice compresses beyond any ratio."""


MAX_VOLUME_GIB = 2.0
"""Of what is decompressed into memory at once, unless `allow_volumes` says otherwise: a CT of 4000 slices."""
HONEST_RATIO = 2
"""What a file decompresses to at so many times its own size is no trap: it takes its room on the disk too."""

UNCOMPRESSED = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""Transfer syntaxes of DICOM in which pixels take the room that the header says; none is one of them (PS3.5 A)."""


def is_uncompressed(transfer_syntax: str) -> bool:
    """Whether pixels in a transfer syntax of DICOM, known or not, must take as many bytes as their header says."""
    return transfer_syntax in UNCOMPRESSED


def check_stored(claimed_bytes: int, held_bytes: int) -> None:
    """Passes a claim about pixels that lie uncompressed in a file of so many bytes.

    Raises:
        UnreadableError: If the whole file is smaller than its pixels are claimed to be.
    """
    if claimed_bytes > held_bytes:
        raise UnreadableError(
            f"the header claims {_size(claimed_bytes)} of pixels, the file holds {_size(held_bytes)}; it is cut short"
        )


def check_compressed(claimed_bytes: int, held_bytes: int) -> None:
    """Passes a claim about pixels that lie compressed in a file of so many bytes.

    Raises:
        UnreadableError: If no codec could have packed so much into the file.
    """
    if claimed_bytes > max(ALWAYS_ALLOWED_BYTES, MAX_DEFLATE_RATIO * held_bytes):
        raise UnreadableError(
            f"the header claims {_size(claimed_bytes)} of pixels in a file of {_size(held_bytes)}; "
            "no compression does that"
        )


class _Allowed:
    """What this process may decompress at once; `engine.map_items` carries it to where items are worked on."""

    max_gib = MAX_VOLUME_GIB


def allow_volumes(max_gib: float) -> None:
    """Set how much is decompressed at once, here and in whatever works on items for this process."""
    _Allowed.max_gib = float(max_gib)


def allowed_gib() -> float:
    """How much may be decompressed at once, in GiB."""
    return _Allowed.max_gib


@contextmanager
def allowing(max_gib: float) -> Iterator[None]:
    """Allow so much meanwhile."""
    before = allowed_gib()
    allow_volumes(max_gib)
    try:
        yield
    finally:
        allow_volumes(before)


def check_allowed(claimed_bytes: int, held_bytes: int) -> None:
    """Pass a claim about what is decompressed at once from files of so many bytes: a picture, a volume, an array.

    Every reader asks before it decodes what may take more than its file does.

    Raises:
        UnsupportedError: If it is larger than allowed, and more than `HONEST_RATIO` times as large as the files.
    """
    if claimed_bytes > max(allowed_gib() * 2**30, HONEST_RATIO * held_bytes):
        raise UnsupportedError(
            f"{_size(held_bytes)} of files would be decompressed to {_size(claimed_bytes)}, above the limit of "
            f"{allowed_gib():g} GiB; raise max_volume_gib if it is meant"
        )


def check_volume(claimed_bytes: int, held_bytes: int) -> None:
    """Pass a claim about what is decompressed at once by a codec that `check_compressed` knows.

    Raises:
        UnreadableError: If no codec could have packed so much into the file.
        UnsupportedError: If it is larger than allowed.
    """
    check_compressed(claimed_bytes, held_bytes)
    check_allowed(claimed_bytes, held_bytes)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB" if num_bytes >= 2**20 else f"{num_bytes} bytes"
