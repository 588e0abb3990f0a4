"""Lookup tables of DICOM: from stored to real values, displayed values or colors (PS3.3 C.11.1, C.11.2, C.7.9)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Num, UInt
from numpy import ndarray as Array

from medvit.errors import UnreadableError

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_ENTRIES = 2**16


@dataclass(frozen=True)
class LookupTable:
    """Entries for stored values from `first` on; values below take the first entry, values above the last."""

    entries: Num[Array, "n"]
    first: int
    bits: int
    """Bits that an entry may use; 0 of floating-point ones."""

    def __call__(self, stored: Num[Array, "h w"]) -> Num[Array, "h w"]:
        """The entry of each value, in the type of the entries."""
        places = np.clip(stored.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[places]


def lookup_table(item: Dataset, *, is_little: bool, is_signed: bool) -> LookupTable:
    """The table in an item of (0028,3000) ModalityLUTSequence or (0028,3010) VOILUTSequence.

    `is_signed` says whether the values that go in may be negative.

    Raises:
        UnreadableError: If its descriptor and its entries do not agree.
    """
    count, first, bits = _descriptor(item, "LUTDescriptor", "(0028,3002) LUTDescriptor", is_signed=is_signed)
    return LookupTable(_entries(item.get("LUTData"), count, bits, "<" if is_little else ">"), first, bits)


def palette(dataset: Dataset, *, is_little: bool, is_signed: bool) -> tuple[LookupTable, LookupTable, LookupTable]:
    """The tables of red, green and blue, as 8 bits an entry.

    Entries of 16 bits lose their low byte, unless none of the three tables has a high one: then it is the low byte
    that holds the color, whatever the descriptor says.

    Raises:
        UnreadableError: If a table is missing, or its descriptor and its entries do not agree.
    """
    tables = [_color_table(dataset, color, is_little, is_signed) for color in ("Red", "Green", "Blue")]
    is_wide = max(int(table.entries.max()) for table in tables) > 255
    shift = 8 if is_wide else 0
    red, green, blue = (LookupTable((table.entries >> shift).astype(np.uint8), table.first, 8) for table in tables)
    return red, green, blue


def first_mapped(dataset: Dataset, *, is_signed: bool) -> int:
    """The least stored value that the palette of an image takes.

    Raises:
        UnreadableError: If the descriptor of the palette is damaged.
    """
    keyword = "RedPaletteColorLookupTableDescriptor"
    return _descriptor(dataset, keyword, keyword, is_signed=is_signed)[1]


def _color_table(dataset: Dataset, color: str, is_little: bool, is_signed: bool) -> LookupTable:
    name = f"{color}PaletteColorLookupTable"
    count, first, bits = _descriptor(dataset, f"{name}Descriptor", f"{name}Descriptor", is_signed=is_signed)
    order = "<" if is_little else ">"
    plain, segmented = dataset.get(f"{name}Data"), dataset.get(f"Segmented{name}Data")
    if plain is None and segmented is not None:
        entries = np.fromiter(_expanded(_numbers(segmented, bits, order), count), np.uint16)
        if len(entries) < count:
            raise UnreadableError(f"Segmented{name}Data gives {len(entries)} of {count} entries; it is damaged")
        return LookupTable(entries, first, bits)
    return LookupTable(_entries(plain, count, bits, order), first, bits)


def _descriptor(item: Dataset, keyword: str, name: str, *, is_signed: bool) -> tuple[int, int, int]:
    try:
        count, first, bits = (int(value) for value in item.get(keyword) or ())
    except (TypeError, ValueError):
        raise UnreadableError(f"{name} does not hold three numbers; the lookup table cannot be used") from None
    # The element is signed or not as the pixels are, and is often written otherwise; 0 entries stand for 65536.
    count, first = count % MAX_ENTRIES or MAX_ENTRIES, first % MAX_ENTRIES
    if is_signed and first >= MAX_ENTRIES // 2:
        first -= MAX_ENTRIES
    if not 1 <= bits <= 16:
        raise UnreadableError(f"{name} says {bits} bits an entry; expected 8 to 16")
    return count, first, bits


def _entries(value: Any, count: int, bits: int, order: str) -> UInt[Array, "n"]:
    if value is None:
        raise UnreadableError("a lookup table has a descriptor but no entries")
    if isinstance(value, bytes) and len(value) in (count, count + count % 2):  # a byte an entry, whatever is said
        return np.frombuffer(value[:count], np.uint8)
    entries = _numbers(value, 16, order)
    if len(entries) < count:
        raise UnreadableError(f"a lookup table has {len(entries)} of the {count} entries it claims")
    return entries[:count]


def _numbers(value: Any, bits: int, order: str) -> UInt[Array, "n"]:
    if isinstance(value, bytes):
        if bits <= 8:
            return np.frombuffer(value, np.uint8)
        return np.frombuffer(value[: len(value) // 2 * 2], f"{order}u2").astype(np.uint16)
    values = np.atleast_1d(np.asarray(value, dtype=np.int64))
    return (values % MAX_ENTRIES).astype(np.uint16)


def _expanded(numbers: UInt[Array, "n"], count: int) -> Iterator[int]:
    """The entries that segments stand for (PS3.3 C.7.9.2), `count` at most."""
    given, last = 0, 0
    for segment in _segments(numbers):
        values = segment.values if segment.is_discrete else np.linspace(last, segment.end, segment.count + 1)[1:]
        for value in values[: count - given]:
            last = round(float(value))
            given += 1
            yield last
        if given >= count:
            return


@dataclass(frozen=True)
class _Segment:
    count: int
    values: UInt[Array, "n"]
    """The entries where they are discrete, else empty."""
    end: int = 0
    """The last entry of a line from the entry before."""

    @property
    def is_discrete(self) -> bool:
        return len(self.values) > 0


def _segments(numbers: UInt[Array, "n"], kinds: tuple[int, ...] = (0, 1, 2)) -> Iterator[_Segment]:
    values, place = numbers.tolist(), 0
    while place + 2 <= len(values):
        code, length = values[place], values[place + 1]
        if code not in kinds:
            raise UnreadableError(f"a segmented lookup table holds a segment of kind {code} out of place")
        if code == 0:
            yield _Segment(length, numbers[place + 2 : place + 2 + length])
            place += 2 + length
        elif code == 1:
            yield _Segment(length, numbers[:0], values[place + 2] if place + 2 < len(values) else 0)
            place += 3
        else:
            offset, width = _offset(numbers, place + 2)
            # Segments that are repeated repeat none themselves, so that a small table cannot stand for a huge one.
            named = _segments(numbers[offset:place], kinds=(0, 1))
            yield from islice(named, length)
            place += 2 + width


def _offset(numbers: UInt[Array, "n"], place: int) -> tuple[int, int]:
    """Where the segments that are repeated begin, and how many numbers say so: 4 bytes, the least significant first."""
    size = numbers.itemsize
    parts = numbers[place : place + 4 // size].tolist()
    return sum(part << 8 * size * n for n, part in enumerate(parts)) // size, 4 // size
