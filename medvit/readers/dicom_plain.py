"""Values of DICOM elements that are as simple as most are: plain text, numbers and identifiers, out of their bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

REMEMBERED = 4096
"""Values of which most repeat from file to file; what does not is decoded anew."""

LONGEST = 256
"""Bytes of a value that is remembered; what is longer is left to pydicom."""

LEFT_TO_PYDICOM = object()
"""What stands for a value that is not so simple."""


def _text(text: str) -> str:
    return text.rstrip(" \0")


SIMPLE_VRS: Mapping[bytes, Callable[[str], Any]] = {
    b"CS": _text,
    b"LO": _text,
    b"SH": _text,
    b"DS": float,
    b"IS": int,
    b"UI": _text,
}
"""How the text of a value becomes plain (PS3.5 6.2)."""


def plain_value(vr: bytes | None, value: bytes) -> Any:
    """A value in its plain type, several as a tuple; `LEFT_TO_PYDICOM` where that is not simple.

    Equal values are one object, so that headers of a series share what they have in common.
    """
    if vr in SIMPLE_VRS and len(value) <= LONGEST:
        return _remembered(vr, value)
    return value[0] + 256 * value[1] if vr == b"US" and len(value) == 2 else LEFT_TO_PYDICOM


@lru_cache(REMEMBERED)
def _remembered(vr: bytes, value: bytes) -> Any:
    if not value.isascii() or b"\x1b" in value:  # an escape changes the character set
        return LEFT_TO_PYDICOM
    parts = value.decode().rstrip(" \0").split("\\")
    if "" in parts:
        return LEFT_TO_PYDICOM
    try:
        plain = tuple(map(SIMPLE_VRS[vr], parts))
    except ValueError:
        return LEFT_TO_PYDICOM
    return plain[0] if len(plain) == 1 else plain
