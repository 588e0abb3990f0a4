"""Limits for sizes declared in headers, which are compared with the bytes present before memory is allocated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medvit.errors import UnreadableError, UnsupportedError

MAX_DEFLATE_RATIO = 1032
"""Maximum compression ratio of deflate (zlib's technical notes). It is also applied to other codecs if more than 64 MiB
are declared.
"""

ALWAYS_ALLOWED_BYTES = 64 * 2**20
"""A declared size up to this is always accepted: an empty slice compresses beyond any ratio."""


MAX_VOLUME_GIB = 2.0
"""Default limit in GiB for the data decompressed into memory at once (see `allow_volumes`): enough for a CT of 4000
slices.
"""
HONEST_RATIO = 2
"""A file that decompresses to at most this many times its size is not a decompression bomb: it is large on disk, too.
"""

UNCOMPRESSED = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""DICOM transfer syntaxes whose pixels have the size that the header declares (PS3.5 A). A missing transfer syntax, "",
counts as uncompressed.
"""


def is_uncompressed(transfer_syntax: str) -> bool:
    """Return whether pixels in a DICOM transfer syntax are uncompressed; only then do they have the declared size."""
    return transfer_syntax in UNCOMPRESSED


def check_stored(claimed_bytes: int, held_bytes: int) -> None:
    """Check that a file of `held_bytes` can hold the `claimed_bytes` of uncompressed pixels that its header declares.

    Raises:
        UnreadableError: If the complete file is smaller than its declared pixels.
    """
    if claimed_bytes > held_bytes:
        raise UnreadableError(
            f"the header declares {_size(claimed_bytes)} of pixels, but the file contains {_size(held_bytes)}; the "
            "file is truncated"
        )


def check_compressed(claimed_bytes: int, held_bytes: int) -> None:
    """Check that a file of `held_bytes` can hold, in compressed form, the `claimed_bytes` that its header declares.

    Raises:
        UnreadableError: If no codec could have packed that much into the file.
    """
    if claimed_bytes > max(ALWAYS_ALLOWED_BYTES, MAX_DEFLATE_RATIO * held_bytes):
        raise UnreadableError(
            f"the header declares {_size(claimed_bytes)} of pixels in a file of {_size(held_bytes)}, which no "
            "compression can achieve; the file is damaged"
        )


class _Allowed:
    """Limit, for this process, on the size of decompressed data; `engine.map_items` passes it to worker processes."""

    max_gib = MAX_VOLUME_GIB


def allow_volumes(max_gib: float) -> None:
    """Set the largest size (GiB) to decompress at once, for this process and its workers."""
    _Allowed.max_gib = float(max_gib)


def allowed_gib() -> float:
    """Return the largest size to decompress at once, in GiB."""
    return _Allowed.max_gib


@contextmanager
def allowing(max_gib: float) -> Iterator[None]:
    """Return a context in which the largest size to decompress at once is `max_gib`."""
    before = allowed_gib()
    allow_volumes(max_gib)
    try:
        yield
    finally:
        allow_volumes(before)


def check_allowed(claimed_bytes: int, held_bytes: int) -> None:
    """Check the size of data to decompress at once: an image, a volume, or an array.

    `claimed_bytes` is the decompressed size, and `held_bytes` the size of the files. Every reader calls this function
    before it decodes data that may take more memory than its file.

    Raises:
        UnsupportedError: If the data is larger than allowed, and more than `HONEST_RATIO` times as large as the files.
    """
    if claimed_bytes > max(allowed_gib() * 2**30, HONEST_RATIO * held_bytes):
        raise UnsupportedError(
            f"{_size(held_bytes)} of files would be decompressed to {_size(claimed_bytes)}, above the limit of "
            f"{allowed_gib():g} GiB; raise max_volume_gib if this is intended"
        )


def check_volume(claimed_bytes: int, held_bytes: int) -> None:
    """Check the size of data to decompress at once, by both `check_compressed` and `check_allowed`.

    Raises:
        UnreadableError: If no codec could have packed that much into the file.
        UnsupportedError: If the data is larger than allowed.
    """
    check_compressed(claimed_bytes, held_bytes)
    check_allowed(claimed_bytes, held_bytes)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB" if num_bytes >= 2**20 else f"{num_bytes} bytes"
