"""A quick way through well-formed DICOM files: the elements of a data set, values left undecoded until asked for.

It takes the usual case, little endian with preamble (PS3.10 7.1, PS3.5 7.1), several times as fast as a general parser,
since what is not wanted is stepped over. Anything else, a damaged file above all, is left to pydicom.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from struct import Struct
from struct import error as CutShort
from typing import BinaryIO, NamedTuple

from pydicom import Dataset, config
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

PREAMBLE_BYTES = 132
FIRST_BYTES = 2**14
"""What is read of a file at first when its pixels are not wanted; most headers end before."""

IMPLICIT_SYNTAX = b"1.2.840.10008.1.2"
LEFT_TO_PYDICOM = (b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99", b"1.2.840.113619.5.2")
"""Big endian, deflated, and the private mixture of GE; all others are explicit little endian (PS3.5 A.4)."""

SHORT_VRS = frozenset(
    (b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US").split()  # PS3.5 7.1.2, table 7.1-2
)
LONG_VRS = frozenset((b"OB OD OF OL OV OW SQ SV UC UN UR UT UV").split())  # table 7.1-1
TEXT_VRS = frozenset(["AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "SQ", "ST", "TM", "UC", "UI", "UR", "UT"])
"""Those whose empty values are empty, not missing."""
UNDEFINED = 0xFFFFFFFF
OF_META = frozenset((0x00020002, 0x00020003, 0x00020010))
CHARACTER_SET, TRANSFER_SYNTAX, PIXELS = 0x00080005, 0x00020010, 0x7FE00010
FIRST_OF_PIXELS, LAST_OF_META = 0x7FE00008, 0x0002FFFF
ITEM, ITEM_END, ITEMS_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"

_explicit, _implicit = Struct("<HH2sH").unpack_from, Struct("<HHI").unpack_from
_tag_at, _length = Struct("<HH").unpack_from, Struct("<I").unpack_from


class Unusual(Exception):  # noqa: N818 (nothing is wrong: it is left to another parser)
    """Found what this parser does not take."""


class Element(NamedTuple):
    """One element and where its value lies; of undefined length, `stop` is before the delimiter and `next` behind."""

    tag: int
    vr: bytes | None
    start: int
    stop: int
    next: int
    is_undefined: bool


def quick(
    stream: BinaryIO, *, tags: Collection[int] | None = None, with_pixels: bool = True, decoded: Collection[int] = ()
) -> Dataset | None:
    """The data set in a file at its beginning, all elements or those of `tags`; none where pydicom should read it.

    Nothing behind the last element that is wanted is looked at; `PIXELS` is the last one of all. Values of the tags
    `decoded` are decoded at once, which is quicker for those that will be asked for; numbers become plain ones.
    """
    wanted = None if tags is None else {CHARACTER_SET, *tags, *([PIXELS] if with_pixels else [])}
    last = min(PIXELS if with_pixels else FIRST_OF_PIXELS - 1, max(wanted or [PIXELS]))
    size = os.fstat(stream.fileno()).st_size
    content = stream.read(size if with_pixels else FIRST_BYTES)
    while True:
        try:
            return _dataset(content, size, wanted, last, frozenset(decoded))
        except Unusual:
            return None
        except CutShort:
            more = stream.read(15 * len(content))
            if not more:
                return None
            content += more


def _dataset(content: bytes, size: int, tags: Collection[int] | None, last: int, decoded: Collection[int]) -> Dataset:
    if content[128:PREAMBLE_BYTES] != b"DICM":
        raise Unusual
    meta = {e.tag: e for e in _elements(content, PREAMBLE_BYTES, size, is_implicit=False, last=LAST_OF_META)}
    if TRANSFER_SYNTAX not in meta:
        raise Unusual
    syntax = content[meta[TRANSFER_SYNTAX].start : meta[TRANSFER_SYNTAX].stop].strip(b"\0 ")
    if syntax in LEFT_TO_PYDICOM:
        raise Unusual
    is_implicit = syntax == IMPLICIT_SYNTAX
    start = max(element.next for element in meta.values())
    elements = _elements(content, start, size, is_implicit=is_implicit, last=last)
    wanted = (element for element in elements if tags is None or element.tag in tags)
    found = _raw(content, wanted, is_implicit=is_implicit, decoded=decoded)
    if not found:
        raise Unusual
    dataset = Dataset(found)
    dataset.file_meta = FileMetaDataset(_raw(content, meta.values(), is_implicit=False, decoded=OF_META))
    dataset.set_original_encoding(is_implicit, True, dataset._character_set)
    return dataset


def _elements(content: bytes, start: int, size: int, *, is_implicit: bool, last: int) -> Iterator[Element]:
    """The elements from `start` on, up to the tag `last`; of `size` bytes `content` may hold only the first."""
    at, previous = start, -1
    while at < size:
        group, number = _tag_at(content, at)
        if group << 16 | number > last:  # before its length, which behind the meta information is of another syntax
            return
        tag, vr, value, length = _opening(content, at, is_implicit=is_implicit)
        if tag <= previous:
            raise Unusual
        is_undefined = length == UNDEFINED
        if is_undefined:
            if vr == b"UN":  # its items are implicit (PS3.5 6.2.2)
                raise Unusual
            at = _behind_items(content, value, is_implicit=is_implicit)
        else:
            at = value + length
            if at > size:
                raise Unusual
        yield Element(tag, vr, value, at - 8 if is_undefined else at, at, is_undefined)
        if tag == last:
            return
        previous = tag


def _opening(content: bytes, at: int, *, is_implicit: bool) -> tuple[int, bytes | None, int, int]:
    """Tag, value representation, where the value starts, and its length."""
    if is_implicit:
        group, number, length = _implicit(content, at)
        return group << 16 | number, None, at + 8, length
    group, number, vr, length = _explicit(content, at)
    if vr in SHORT_VRS:
        return group << 16 | number, vr, at + 8, length
    if vr in LONG_VRS:
        return group << 16 | number, vr, at + 12, _length(content, at + 8)[0]
    raise Unusual


def _behind_items(content: bytes, at: int, *, is_implicit: bool) -> int:
    """Where the delimiter of a sequence, or of fragments of pixels, ends that starts with an item at `at`."""
    while True:
        opening, (length,) = content[at : at + 4], _length(content, at + 4)
        at += 8
        if opening == ITEMS_END:
            return at
        if opening != ITEM:
            raise Unusual
        at = _behind_item(content, at, is_implicit=is_implicit) if length == UNDEFINED else at + length


def _behind_item(content: bytes, at: int, *, is_implicit: bool) -> int:
    while content[at : at + 4] != ITEM_END:
        _, vr, at, length = _opening(content, at, is_implicit=is_implicit)
        if length != UNDEFINED:
            at += length
        elif vr == b"UN":
            raise Unusual
        else:
            at = _behind_items(content, at, is_implicit=is_implicit)
    return at + 8


def _raw(
    content: bytes, elements: Iterable[Element], *, is_implicit: bool, decoded: Collection[int] = ()
) -> dict[BaseTag, RawDataElement | DataElement]:
    """The elements as pydicom keeps them until their values are asked for; those of `decoded` at once."""
    found: dict[BaseTag, RawDataElement | DataElement] = {}
    for element in elements:
        tag, value = _tag(element.tag), content[element.start : element.stop]
        if len(value) < element.stop - element.start:
            raise CutShort
        if element.tag in decoded and (plain := _plain(element, value, tag)) is not None:
            found[tag] = plain
            continue
        vr = element.vr.decode() if element.vr else None
        length = len(value)
        if element.is_undefined and element.tag == PIXELS:
            length = UNDEFINED
        elif element.is_undefined:
            vr = "SQ"
        kept = value if value or vr in TEXT_VRS else None
        found[tag] = RawDataElement(tag, vr, length, kept, element.start, is_implicit, True)
    return found


def _plain(element: Element, value: bytes, tag: BaseTag) -> DataElement | None:
    """An element with a decoded value, where that is as simple as it mostly is; none where pydicom should do it."""
    vr = element.vr.decode() if element.vr else _known_vr(tag)
    if vr == "US" and len(value) == 2:
        return DataElement(tag, vr, value[0] + 256 * value[1], already_converted=True)
    convert = SIMPLE_VRS.get(vr)
    if convert is None or not value.isascii() or b"\x1b" in value:  # an escape changes the character set
        return None
    parts = value.decode().rstrip(" \0").split("\\")
    if "" in parts:
        return None
    try:
        plain = convert(parts[0]) if len(parts) == 1 else [convert(part) for part in parts]
    except ValueError:
        return None
    return DataElement(tag, vr, plain, already_converted=True)


def _uid(text: str) -> UID:
    return UID(text, validation_mode=config.IGNORE)


def _text(text: str) -> str:
    return text.rstrip(" \0")


@cache
def _known_vr(tag: BaseTag) -> str | None:
    return dictionary_VR(tag) if dictionary_has_tag(tag) else None


@cache
def _tag(number: int) -> BaseTag:
    return BaseTag(number)


SIMPLE_VRS: Mapping[str | None, Callable[[str], object]] = {
    "CS": _text,
    "LO": _text,
    "SH": _text,
    "DS": float,
    "IS": int,
    "UI": _uid,
}
"""How the text of a value becomes plain."""
