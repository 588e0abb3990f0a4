"""Decoding of simple DICOM values from their bytes: plain text, numbers and identifiers.

Most elements have such values; all others are left to pydicom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from struct import Struct
from typing import Any

REMEMBERED = 4096
"""Maximum number of values in the cache; most values repeat from file to file."""
LONGEST = 256
"""Longest value, in bytes, that is cached; pydicom decodes longer ones."""

LEFT_TO_PYDICOM = object()
"""Placeholder for a value that is not simple."""


def _text(text: str) -> str:
    return text.rstrip(" \0")


def _uid(text: str) -> str:
    return text.strip(" \0")


TEXTS: Mapping[bytes, Callable[[str], Any]] = {
    **dict.fromkeys((b"CS", b"LO", b"SH", b"DA", b"DT", b"TM"), _text),
    b"UI": _uid,
    b"DS": float,
    b"IS": int,
}
"""Value representation -> function that converts the text of a value to a plain Python value (PS3.5 6.2)."""
NUMBERS: Mapping[bytes, Struct] = {
    b"US": Struct("<H"),
    b"UL": Struct("<I"),
    b"SS": Struct("<h"),
    b"SL": Struct("<i"),
    b"FL": Struct("<f"),
    b"FD": Struct("<d"),
}
"""Value representation -> format of its binary numbers (PS3.5 6.2)."""


@lru_cache(REMEMBERED)
def _remembered(vr: bytes, value: bytes) -> Any:
    plain = _numbers(NUMBERS[vr], value) if vr in NUMBERS else _texts(TEXTS[vr], value)
    return plain[0] if len(plain) == 1 else plain or LEFT_TO_PYDICOM


def plain_value(vr: bytes | None, value: bytes) -> Any:
    """Decode the value of an element to a plain Python value; return `LEFT_TO_PYDICOM` if it is not simple.

    Several values are returned as a tuple. An empty text is returned as an empty text, and an empty number as None.
    Equal values are returned as the same object, so that the headers of a series share their memory.
    """
    if vr is None or len(value) > LONGEST or (vr not in TEXTS and vr not in NUMBERS):
        return LEFT_TO_PYDICOM
    if value:
        return _remembered(vr, value)
    return "" if TEXTS.get(vr) in (_text, _uid) else None


def _numbers(of_one: Struct, value: bytes) -> tuple[Any, ...]:
    return () if len(value) % of_one.size else tuple(one for (one,) in of_one.iter_unpack(value))


def _texts(convert: Callable[[str], Any], value: bytes) -> tuple[Any, ...]:
    if not value.isascii() or b"\x1b" in value:  # an escape changes the character set
        return ()
    parts = value.decode().rstrip(" \0").split("\\")
    try:
        return () if "" in parts else tuple(map(convert, parts))
    except ValueError:
        return ()


def class_name(sop_class: str) -> str:
    """Return the readable name of an SOP class."""
    from pydicom.uid import UID_dictionary

    known = UID_dictionary.get(sop_class)
    return f"a DICOM object of the class {known[0]}" if known else "a DICOM object"


@cache
def tag_of(keyword: str) -> int:
    """Return the tag of a keyword; -1 if it is not a keyword."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    return -1 if tag is None else int(tag)


@cache
def known_vr(tag: int) -> bytes | None:
    """Return the VR that the standard assigns to an element; None for unknown elements."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    return dictionary_VR(tag).encode() if dictionary_has_tag(tag) else None
