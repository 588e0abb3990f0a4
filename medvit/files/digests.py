"""Digests of texts and arrays."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy import ndarray as Array


def digest_of_parts(*parts: str | bytes) -> str:
    """Return the SHA-256 of texts or bytes, with their lengths, so that different lists never give the same digest."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode() if isinstance(part, str) else part
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()


def digest_of_array(array: Array[Any, Any]) -> str:
    """Return the SHA-256 of an array: its type, shape and values, whatever its layout in memory."""
    digest = hashlib.sha256(f"{array.dtype.newbyteorder('<').str} {array.shape}".encode())
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    for part in little.reshape(1) if little.ndim == 0 else little:  # one by one, which copies less at a time
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
