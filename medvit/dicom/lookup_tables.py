"""DICOM lookup tables: from stored to real values, displayed values or colors (PS3.3 C.11.1, C.11.2, C.7.9)."""

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
    """Table with one entry per stored value, starting with the value `first`.

    Lower values map to the first entry, and values above the table to the last entry.
    """

    entries: Num[Array, "n"]
    first: int
    bits: int
    """Bits per entry; 0 for floating-point entries."""

    def __call__(self, stored: Num[Array, "h w"]) -> Num[Array, "h w"]:
        """Return the entry of each value, in the type of the entries."""
        places = np.clip(stored.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[places]


def lookup_table(item: Dataset, *, is_little: bool, is_signed: bool) -> LookupTable:
    """Read the table in an item of (0028,3000) ModalityLUTSequence or (0028,3010) VOILUTSequence.

    `is_signed` states whether input values may be negative.

    Raises:
        UnreadableError: If descriptor and entries of the table contradict each other.
    """
    count, first, bits = _descriptor(item, "LUTDescriptor", "(0028,3002) LUTDescriptor", is_signed=is_signed)
    return LookupTable(_entries(item.get("LUTData"), count, bits, "<" if is_little else ">"), first, bits)


def palette(dataset: Dataset, *, is_little: bool, is_signed: bool) -> tuple[LookupTable, LookupTable, LookupTable]:
    """Read the red, green and blue tables of a palette, at 8 bits per entry.

    The high byte of a 16-bit entry is the color. If the high byte is 0 in all three tables, the low byte is the color,
    regardless of the descriptor.

    Raises:
        UnreadableError: If a table is missing, or if its descriptor and entries contradict each other.
    """
    tables = [_color_table(dataset, color, is_little, is_signed) for color in ("Red", "Green", "Blue")]
    is_wide = max(int(table.entries.max()) for table in tables) > 255
    shift = 8 if is_wide else 0
    red, green, blue = (LookupTable((table.entries >> shift).astype(np.uint8), table.first, 8) for table in tables)
    return red, green, blue


def first_mapped(dataset: Dataset, *, is_signed: bool) -> int:
    """Return the lowest stored value that the palette of an image maps to a color.

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
            raise UnreadableError(
                f"Segmented{name}Data expands to {len(entries)} entries; expected {count}: the table is damaged"
            )
        return LookupTable(entries, first, bits)
    return LookupTable(_entries(plain, count, bits, order), first, bits)


def _descriptor(item: Dataset, keyword: str, name: str, *, is_signed: bool) -> tuple[int, int, int]:
    try:
        count, first, bits = (int(value) for value in item.get(keyword) or ())
    except (TypeError, ValueError):
        raise UnreadableError(f"{name} does not contain three numbers; the lookup table cannot be used") from None
    # The element has the signedness of the pixels but is often written differently; 0 entries mean 65536.
    count, first = count % MAX_ENTRIES or MAX_ENTRIES, first % MAX_ENTRIES
    if is_signed and first >= MAX_ENTRIES // 2:
        first -= MAX_ENTRIES
    if not 1 <= bits <= 16:
        raise UnreadableError(f"{name} declares {bits} bits per entry; expected 8 to 16")
    return count, first, bits


def _entries(value: Any, count: int, bits: int, order: str) -> UInt[Array, "n"]:
    if value is None:
        raise UnreadableError("a lookup table has a descriptor but no entries")
    if isinstance(value, bytes) and len(value) in (
        count,
        count + count % 2,
    ):  # one byte per entry, regardless of the descriptor
        return np.frombuffer(value[:count], np.uint8)
    entries = _numbers(value, 16, order)
    if len(entries) < count:
        raise UnreadableError(f"a lookup table has {len(entries)} of the {count} entries it declares")
    return entries[:count]


def _numbers(value: Any, bits: int, order: str) -> UInt[Array, "n"]:
    if isinstance(value, bytes):
        if bits <= 8:
            return np.frombuffer(value, np.uint8)
        return np.frombuffer(value[: len(value) // 2 * 2], f"{order}u2").astype(np.uint16)
    values = np.atleast_1d(np.asarray(value, dtype=np.int64))
    return (values % MAX_ENTRIES).astype(np.uint16)


def _expanded(numbers: UInt[Array, "n"], count: int) -> Iterator[int]:
    """Yield the first `count` entries of a segmented lookup table (PS3.3 C.7.9.2), which `numbers` encode."""
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
    """Entries of a discrete segment, else empty."""
    end: int = 0
    """Last entry of a linear segment that starts at the previous entry."""

    @property
    def is_discrete(self) -> bool:
        return len(self.values) > 0


def _segments(numbers: UInt[Array, "n"], kinds: tuple[int, ...] = (0, 1, 2)) -> Iterator[_Segment]:
    values, place = numbers.tolist(), 0
    while place + 2 <= len(values):
        code, length = values[place], values[place + 1]
        if code not in kinds:
            raise UnreadableError(
                f"a segmented lookup table has a segment of type {code} where this type is not allowed"
            )
        if code == 0:
            yield _Segment(length, numbers[place + 2 : place + 2 + length])
            place += 2 + length
        elif code == 1:
            yield _Segment(length, numbers[:0], values[place + 2] if place + 2 < len(values) else 0)
            place += 3
        else:
            offset, width = _offset(numbers, place + 2)
            # Repeated segments may not themselves repeat segments, so that a small table cannot expand to a huge one.
            named = _segments(numbers[offset:place], kinds=(0, 1))
            yield from islice(named, length)
            place += 2 + width


def _offset(numbers: UInt[Array, "n"], place: int) -> tuple[int, int]:
    """Return the offset that an indirect segment stores at `place`, and how many of the numbers encode this offset.

    The offset is encoded in 4 bytes, least significant first; it is returned as an index into `numbers`.
    """
    size = numbers.itemsize
    parts = numbers[place : place + 4 // size].tolist()
    return sum(part << 8 * size * n for n, part in enumerate(parts)) // size, 4 // size
