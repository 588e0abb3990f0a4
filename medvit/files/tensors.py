"""Digests of files of tensors (safetensors), without loading torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

from medvit.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""Maximum size of a header, as in the safetensors library."""
CHUNK_BYTES = 2**24


def digest_of(path: Path, prefix: str = "") -> str:
    """Return the SHA-256 of the tensors of a file whose names begin with `prefix`, which is removed from the names.

    The digest covers names, data types, shapes and values, but neither the order of the tensors nor metadata.

    Raises:
        CheckpointError: If the file is damaged, or has no such tensor.
    """
    with path.open("rb") as stream:
        try:
            return digest_of_stream(stream, prefix)
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from None


def digest_of_stream(stream: BinaryIO, prefix: str = "") -> str:
    """Return the same digest as `digest_of`, for the tensors in a stream.

    Raises:
        ValueError: If the stream is not in the safetensors format, ends early, or has no such tensor.
    """
    digest = hashlib.sha256()
    header, start = _header(stream)
    names = sorted(name for name in header if name.startswith(prefix) and name != "__metadata__")
    if not names:
        raise ValueError(f"no tensor is named {prefix}...")
    for name in names:
        one = header[name]
        digest.update(json.dumps([name.removeprefix(prefix), one["dtype"], one["shape"]]).encode())
        first, last = one["data_offsets"]
        stream.seek(start + first)
        for left in range(last - first, 0, -CHUNK_BYTES):
            chunk = stream.read(min(left, CHUNK_BYTES))
            if len(chunk) < min(left, CHUNK_BYTES):
                raise ValueError(f"the file ends within {name}")
            digest.update(chunk)
    return digest.hexdigest()


def _header(stream: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return the header of a file, and the offset of the first tensor."""
    length = int.from_bytes(stream.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError("its header is too long")
    return json.loads(stream.read(length)), 8 + length
