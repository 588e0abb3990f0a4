"""What a header may claim: sizes are checked against the bytes that are there before anything is allocated."""

from __future__ import annotations

from medvit.errors import UnreadableError

MAX_DEFLATE_RATIO = 1032
"""Deflate cannot shrink data further (zlib's technical notes); other codecs are held to it from 64 MiB on."""

ALWAYS_ALLOWED_BYTES = 64 * 2**20
"""A claim of this size is tried whatever the file's size: an empty slice compresses beyond any ratio."""


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


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB" if num_bytes >= 2**20 else f"{num_bytes} bytes"
