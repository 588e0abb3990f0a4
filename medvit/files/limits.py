"""What a header may claim: sizes are checked against the bytes that are there before anything is allocated."""

from __future__ import annotations

import os

from medvit.errors import UnreadableError, UnsupportedError

MAX_DEFLATE_RATIO = 1032
"""Deflate cannot shrink data further (zlib's technical notes); other codecs are held to it from 64 MiB on."""

ALWAYS_ALLOWED_BYTES = 64 * 2**20
"""A claim of this size is tried whatever the file's size: an empty slice compresses beyond any ratio."""


MAX_VOLUME_GIB = 2.0
"""Of a volume that is decompressed as a whole, unless `allow_volumes` says otherwise: a CT of 4000 slices."""
_ALLOWED = "MEDVIT_MAX_VOLUME_GIB"
"""Environment variable by which worker processes know what was allowed."""

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


def allow_volumes(max_gib: float) -> None:
    """Set the largest volume that is decompressed, in this process and in those it starts."""
    os.environ[_ALLOWED] = repr(float(max_gib))


def check_volume(claimed_bytes: int, held_bytes: int) -> None:
    """Pass a claim about a volume that is decompressed as a whole from a file of so many bytes.

    Raises:
        UnreadableError: If no codec could have packed so much into the file.
        UnsupportedError: If it is larger than allowed.
    """
    check_compressed(claimed_bytes, held_bytes)
    max_gib = float(os.environ.get(_ALLOWED, MAX_VOLUME_GIB))
    if claimed_bytes > max(max_gib * 2**30, held_bytes):
        raise UnsupportedError(
            f"the header claims {_size(claimed_bytes)} of voxels in a file of {_size(held_bytes)}, above the limit of "
            f"{max_gib:g} GiB for a decompressed volume; raise max_volume_gib if it is meant"
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB" if num_bytes >= 2**20 else f"{num_bytes} bytes"
