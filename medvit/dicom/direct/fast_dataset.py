"""Fast reader of well-formed DICOM files, which locates the elements of a data set and decodes them on access.

It handles the usual case, little endian with preamble (PS3.10 7.1, PS3.5 7.1), and is many times faster than a general
parser, because it skips elements that are not requested. pydicom reads everything else, especially damaged files.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, KeysView, Mapping
from functools import cache, cached_property, lru_cache
from io import FileIO
from typing import TYPE_CHECKING, Any

from medvit.dicom.direct.fast_parser import (
    ITEMS_END,
    PIXELS,
    UNDEFINED,
    Bytes,
    CutShort,
    ElementSpan,
    Span,
    Unusual,
    find_pixels,
    find_places,
)
from medvit.dicom.direct.fast_values import LEFT_TO_PYDICOM, known_vr, plain_value, tag_of
from medvit.files.head import FIRST_BYTES, FileHead

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import DataElement, RawDataElement

PREAMBLE_BYTES = 132
IMPLICIT_SYNTAX = b"1.2.840.10008.1.2"
UNUSUAL_SYNTAXES = (b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99", b"1.2.840.113619.5.2")
"""Big endian, deflated, and GE's private mixed encoding. All others except `IMPLICIT_SYNTAX` are explicit little endian
(PS3.5 A.4).
"""

TEXT_VRS = frozenset(["AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "SQ", "ST", "TM", "UC", "UI", "UR", "UT"])
"""Value representations whose empty value is an empty text, not None."""
CHARACTER_SET, TRANSFER_SYNTAX, ROWS = 0x00080005, 0x00020010, 0x00280010
FIRST_OF_PIXELS, LAST_OF_META = 0x7FE00008, 0x0002FFFF
OWN_TYPES = (b"UI", b"DS", b"IS")
"""Value representations that pydicom keeps in its own types: numbers in text keep their original spelling."""
PIXEL_DESCRIPTION = 0x0028
"""Group of the elements that describe the pixels."""
END_OF_STREAM = b"\xff\xd9"
"""End marker of JPEG, JPEG-LS and JPEG 2000 streams; padding may follow."""
READ_MORE = 16
"""Growth factor of the next read when the part read so far does not contain all requested elements."""


class FastDataset:
    """Elements at known offsets (`places`) in the bytes of a file; can be read like a pydicom `Dataset`."""

    def __init__(
        self,
        content: Bytes,
        places: Mapping[int, ElementSpan],
        meta: FastDataset | None,
        *,
        is_implicit: bool,
        pixels: Span | None = None,
    ) -> None:
        self.content, self._places, self._is_implicit = content, places, is_implicit
        self.file_meta: Any = meta
        """The elements of the file meta information (PS3.10 7.1)."""
        self.pixels = pixels
        """Start and stop of the (7FE0,0010) PixelData value, if it was not requested and begins within `content`."""

    def get(self, key: str | int, default: Any = None) -> Any:
        """Return the value of an element, by keyword or tag; `default` if it is missing.

        Texts and numbers are returned as plain Python values, and several values as a tuple. Uncompressed pixels are
        returned as a view.
        """
        tag = tag_of(key) if isinstance(key, str) else key
        if tag not in self._places:
            return default
        value = self._plain(tag)
        return self._dataset[tag].value if value is LEFT_TO_PYDICOM else value

    def raw(self, tag: int) -> tuple[bytes | None, bytes] | None:
        """Return the VR and the bytes of an element; None if it is missing or has an undefined length."""
        vr, start, stop, is_undefined = self._places.get(tag, (None, 0, 0, True))
        return None if is_undefined else (vr, bytes(self.content[start:stop]))

    def are_plain(self, keywords: Iterable[str]) -> bool:
        """Return whether `get` can decode all present elements of `keywords` without pydicom."""
        tags = map(tag_of, keywords)
        return all(self._plain(tag) is not LEFT_TO_PYDICOM for tag in tags if tag in self._places)

    def __contains__(self, key: str | int) -> bool:
        return (tag_of(key) if isinstance(key, str) else key) in self._places

    def keys(self) -> KeysView[int]:
        """Return the tags of all elements, in ascending order."""
        return self._places.keys()

    def private_block(self, group: int, creator: str) -> Any:
        """Return the block of private elements that a creator has reserved, as a pydicom private block.

        Raises:
            KeyError: If the creator has no block.
        """
        return self._dataset.private_block(group, creator)

    def dataset(self, decoded: Collection[int] = ()) -> Dataset:
        """Return the elements as a pydicom `Dataset`.

        Elements with tags in `decoded`, and elements that describe pixels, are decoded immediately, unless their VR is
        in `OWN_TYPES`. All others are decoded on access.
        """
        from pydicom import Dataset
        from pydicom.dataset import FileMetaDataset

        made = Dataset(self._of_pydicom(decoded))
        if self.file_meta is not None:
            made.file_meta = FileMetaDataset(self.file_meta._of_pydicom(()))
            made.set_original_encoding(self._is_implicit, True, made._character_set)
        return made

    def _plain(self, tag: int) -> Any:
        vr, start, stop, is_undefined = self._places[tag]
        if is_undefined:
            return LEFT_TO_PYDICOM
        if tag == PIXELS:
            return memoryview(self.content)[start:stop]
        return plain_value(vr or known_vr(tag), bytes(self.content[start:stop]))

    @cached_property
    def _dataset(self) -> Dataset:
        return self.dataset()

    def _of_pydicom(self, decoded: Collection[int]) -> dict[Any, RawDataElement | DataElement]:
        """Return the elements in the raw form in which pydicom stores them before they are accessed.

        Elements with tags in `decoded` are decoded immediately.
        """
        from pydicom.dataelem import DataElement, RawDataElement
        from pydicom.tag import BaseTag

        found: dict[Any, RawDataElement | DataElement] = {}
        for number, (vr, start, stop, is_undefined) in self._places.items():
            tag, value, name = BaseTag(number), bytes(self.content[start:stop]), _name(vr)
            length = stop - start
            known = vr or known_vr(number)
            if (number in decoded or number >> 16 == PIXEL_DESCRIPTION) and value and known not in OWN_TYPES:
                plain = plain_value(known, value)
                if plain is not LEFT_TO_PYDICOM:
                    several = list(plain) if isinstance(plain, tuple) else plain
                    found[tag] = DataElement(tag, _name(known), several, already_converted=True)
                    continue
            if is_undefined and number == PIXELS:
                length = UNDEFINED
            elif is_undefined:
                name = "SQ"
            kept = value if value or name in TEXT_VRS else None
            found[tag] = RawDataElement(tag, name, length, kept, start, self._is_implicit, True)
        return found


def quick(
    stream: FileIO,
    room: memoryview | None = None,
    *,
    tags: tuple[int | str, ...] | None = None,
    with_pixels: bool = True,
    num_bytes: int = FIRST_BYTES,
) -> FastDataset | None:
    """Read the elements of `tags` from a file, or all elements if `tags` is None; None if pydicom must read the file.

    Elements after the last requested one are not examined; if `tags` is None, the last one is `PIXELS`. With pixels,
    the complete file is read, into the buffer `room` if `room` has the length of the file. Without pixels, `num_bytes`
    are read first, and more only if necessary.
    """
    wanted = None if tags is None else _wanted(tags, with_pixels)
    last = _last(wanted, with_pixels)
    size = os.fstat(stream.fileno()).st_size
    content: Bytes
    if with_pixels and room is not None and len(room) == size:
        content = room[: stream.readinto(room)]
    else:
        content = stream.read(size if with_pixels else num_bytes)
    while True:
        try:
            return _find(content, size, wanted, last)
        except Unusual:
            return None
        except CutShort:
            more = stream.read((READ_MORE - 1) * len(content))
            if not more and with_pixels and END_OF_STREAM in bytes(content[-4:]):
                # Perhaps only the delimiter of the fragments is missing.
                content, size, with_pixels = bytes(content) + ITEMS_END + bytes(4), size + 8, False
                continue
            if not more:
                return None
            content = bytes(content) + more


def quick_beginning(beginning: FileHead, tags: tuple[int | str, ...]) -> FastDataset | None:
    """Read the elements of `tags` from the beginning of a file; None if this requires more bytes or pydicom."""
    wanted = _wanted(tags, False)
    try:
        return _find(beginning.content, beginning.size, wanted, _last(wanted, False))
    except (Unusual, CutShort):
        return None


def _find(content: Bytes, size: int, tags: Collection[int] | None, last: int) -> FastDataset:
    """Find the elements of `tags`, or all elements if `tags` is None, up to the tag `last`.

    `content` is the beginning of a file, or all of it; `size` is the size of the file.
    """
    if content[PREAMBLE_BYTES - 4 : PREAMBLE_BYTES] != b"DICM":
        raise Unusual
    of_meta, end = find_places(content, PREAMBLE_BYTES, size, is_implicit=False, last=LAST_OF_META, tags=None)
    if TRANSFER_SYNTAX not in of_meta:
        raise Unusual
    _, start, stop, _ = of_meta[TRANSFER_SYNTAX]
    syntax = bytes(content[start:stop]).strip(b"\0 ")
    if syntax in UNUSUAL_SYNTAXES:
        raise Unusual
    is_implicit = syntax == IMPLICIT_SYNTAX
    places, end = find_places(content, end, size, is_implicit=is_implicit, last=last, tags=tags)
    if not places or (tags is not None and ROWS in tags and ROWS not in places):
        raise Unusual  # an element out of order may hide all later ones
    if last >= PIXELS and end < size and not any(tag >= FIRST_OF_PIXELS for tag in places):
        raise Unusual  # an element out of order hides the pixels
    pixels = None if last >= PIXELS else find_pixels(content, end, is_implicit=is_implicit)
    meta = FastDataset(content, of_meta, None, is_implicit=False)
    return FastDataset(content, places, meta, is_implicit=is_implicit, pixels=pixels)


@lru_cache(16)
def _last(wanted: frozenset[int] | None, with_pixels: bool) -> int:
    """Return the last tag to examine, given the requested tags `wanted`; None: all tags are requested."""
    return min(PIXELS if with_pixels else FIRST_OF_PIXELS - 1, max(wanted or [PIXELS]))


@lru_cache(16)
def _wanted(tags: tuple[int | str, ...], with_pixels: bool) -> frozenset[int]:
    numbers = (tag_of(tag) if isinstance(tag, str) else int(tag) for tag in tags)
    return frozenset((CHARACTER_SET, *numbers, *([PIXELS] if with_pixels else [])))


@cache
def _name(vr: bytes | None) -> str | None:
    return None if vr is None else vr.decode("ascii")
