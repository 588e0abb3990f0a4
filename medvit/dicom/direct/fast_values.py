"""Values of DICOM elements that are as simple as most are: plain text, numbers and identifiers, out of their bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from struct import Struct
from typing import Any

REMEMBERED = 4096
"""Values that are kept in mind: most repeat from file to file."""
LONGEST = 256
"""Bytes of a value that is remembered; what is longer is left to pydicom."""

LEFT_TO_PYDICOM = object()
"""What stands for a value that is not so simple."""


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
"""How the text of a value becomes plain (PS3.5 6.2)."""
NUMBERS: Mapping[bytes, Struct] = {
    b"US": Struct("<H"),
    b"UL": Struct("<I"),
    b"SS": Struct("<h"),
    b"SL": Struct("<i"),
    b"FL": Struct("<f"),
    b"FD": Struct("<d"),
}
"""How binary numbers lie in a value (PS3.5 6.2)."""


@lru_cache(REMEMBERED)
def _remembered(vr: bytes, value: bytes) -> Any:
    plain = _numbers(NUMBERS[vr], value) if vr in NUMBERS else _texts(TEXTS[vr], value)
    return plain[0] if len(plain) == 1 else plain or LEFT_TO_PYDICOM


def plain_value(vr: bytes | None, value: bytes) -> Any:
    """A value in its plain type, several as a tuple; `LEFT_TO_PYDICOM` where that is not simple.

    Values that are empty are so, texts as text and numbers as none. Equal values are one object, so that headers of a
    series share what they have in common.
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
    """What an object of a SOP class is, in words."""
    from pydicom.uid import UID_dictionary

    known = UID_dictionary.get(sop_class)
    return f"a DICOM object of the class {known[0]}" if known else "a DICOM object"


@cache
def tag_of(keyword: str) -> int:
    """The tag of a keyword; -1 of what is none."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    return -1 if tag is None else int(tag)


@cache
def known_vr(tag: int) -> bytes | None:
    """The value representation that the standard gives an element; none of what it does not know."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    return dictionary_VR(tag).encode() if dictionary_has_tag(tag) else None
