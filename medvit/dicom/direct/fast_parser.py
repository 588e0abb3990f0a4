"""Offsets of the elements of a little-endian data set (PS3.5 7.1), without decoding."""

from __future__ import annotations

import struct
from collections.abc import Collection
from struct import Struct

SHORT_VRS = frozenset(
    (b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US").split()  # PS3.5 7.1.2, table 7.1-2
)
LONG_VRS = frozenset((b"OB OD OF OL OV OW SQ SV UC UN UR UT UV").split())  # table 7.1-1
PIXELS, UNDEFINED = 0x7FE00010, 0xFFFFFFFF
OVERLAYS = 0x60
"""High byte of the numbers of groups that contain an overlay, 6000 to 60FF (PS3.3 C.9.2)."""
ITEM, ITEM_END, ITEMS_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"

Bytes = bytes | memoryview
ElementSpan = tuple[bytes | None, int, int, bool]
"""Value representation (None if implicit), start and stop of the value, whether its length is undefined."""
Span = tuple[int, int]
"""Start and stop of a run of bytes."""

_explicit, _implicit, _length = Struct("<HH2sH").unpack_from, Struct("<HHI").unpack_from, Struct("<I").unpack_from

CutShort = struct.error
"""Errors raised by reading a number past the last byte."""


class Unusual(Exception):  # noqa: N818 (not an error: another parser reads the file)
    """Raised for anything that this parser does not handle."""


def find_places(
    content: Bytes, at: int, size: int, *, is_implicit: bool, last: int, tags: Collection[int] | None
) -> tuple[dict[int, ElementSpan], int]:
    """Return the locations of the elements from offset `at` up to the tag `last`, and the offset after the last one.

    `size` is the size of the file. If `tags` is given, only the locations of these elements are returned.
    """
    found: dict[int, ElementSpan] = {}
    vr, previous, held = None, -1, len(content)
    while at < size:
        if is_implicit:
            group, number, length = _implicit(content, at)
        else:
            group, number, vr, length = _explicit(content, at)
        tag, start = group << 16 | number, at + 8
        if tag > last:  # checked before its length, which has another syntax after the meta information
            break
        if tag <= previous:
            raise Unusual
        if vr is not None and vr not in SHORT_VRS:
            start, length = at + 12, _long_length(content, at, vr)
        is_undefined = length == UNDEFINED
        at = _behind_items(content, start, is_implicit=is_implicit) if is_undefined else start + length
        if at > size:
            raise Unusual
        if tags is None or tag in tags:
            if at > held:
                raise CutShort
            found[tag] = vr, start, at - 8 if is_undefined else at, is_undefined
        if tag == last:
            break
        previous = tag
    return found, at


def find_pixels(content: Bytes, at: int, *, is_implicit: bool) -> Span | None:
    """Return start and stop of the pixel element; None if its position cannot be found in the bytes read.

    The search skips private elements, overlays and group lengths. It ends with None at any other element before the
    pixels, or at the end of `content`.
    """
    previous = -1
    while at + 8 <= len(content):
        try:
            tag, _, start, length = opening(content, at, is_implicit=is_implicit)
        except (Unusual, CutShort):
            return None
        if tag == PIXELS and length != UNDEFINED:
            return start, start + length
        is_passed = tag >> 16 & 1 or tag >> 24 == OVERLAYS or not tag & 0xFFFF
        if not is_passed or tag <= previous or length == UNDEFINED:
            return None
        at, previous = start + length, tag
    return None


def _long_length(content: Bytes, at: int, vr: bytes) -> int:
    (length,) = _length(content, at + 8)
    if vr not in LONG_VRS or (vr == b"UN" and length == UNDEFINED):  # its items are implicit (PS3.5 6.2.2)
        raise Unusual
    return length


def opening(content: Bytes, at: int, *, is_implicit: bool) -> tuple[int, bytes | None, int, int]:
    """Return four facts about the element at an offset: tag, VR, start of the value, and length of the value."""
    if is_implicit:
        group, number, length = _implicit(content, at)
        return group << 16 | number, None, at + 8, length
    group, number, vr, length = _explicit(content, at)
    if vr in SHORT_VRS:
        return group << 16 | number, vr, at + 8, length
    if vr in LONG_VRS:
        return group << 16 | number, vr, at + 12, _length(content, at + 8)[0]
    raise Unusual


def _behind_items(content: Bytes, at: int, *, is_implicit: bool) -> int:
    """Return the offset just past the delimiter that ends a sequence, or encapsulated pixel data.

    `at` is the offset of the first item of the sequence, or of the first fragment.
    """
    while True:
        begun, (length,) = content[at : at + 4], _length(content, at + 4)
        at += 8
        if begun == ITEMS_END:
            return at
        if begun != ITEM:
            raise Unusual
        at = _behind_item(content, at, is_implicit=is_implicit) if length == UNDEFINED else at + length


def _behind_item(content: Bytes, at: int, *, is_implicit: bool) -> int:
    while content[at : at + 4] != ITEM_END:
        _, vr, start, length = opening(content, at, is_implicit=is_implicit)
        if length != UNDEFINED:
            at = start + length
        elif vr == b"UN":
            raise Unusual
        else:
            at = _behind_items(content, start, is_implicit=is_implicit)
    return at + 8
