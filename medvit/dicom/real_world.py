"""Real-world value mappings: from stored values to a quantity with a unit (PS3.3 C.7.6.16.2.11).

A mapping replaces the rescale.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.dicom.element_values import PersonalWords, personal_words, product_text, text
from medvit.dicom.lookup_tables import LookupTable
from medvit.dicom.modality_lut import NO_TERM, Meaning, groups, number
from medvit.errors import UnreadableError, UnsupportedError
from medvit.measured import measured
from medvit.records import Padding

if TYPE_CHECKING:
    from pydicom import Dataset

log = logging.getLogger("medvit")

KEYWORD, ELEMENT = "RealWorldValueMappingSequence", "(0040,9096) RealWorldValueMappingSequence"
UNLABELED = "unlabeled"

_ATOMS = r"(?:da|[YZEPTGMkhdcmunpfa])?(?:mol|dyn|Hz|Bq|Pa|Gy|Sv|Ci|eV|rad|Cel|Ohm|[gmslLKVWJNTAF])"
_WHOLE_ATOMS = r"min|h|d|deg|%|ppm|diop|dB|10[*^]?[+-]?\d{1,2}|mm\[Hg\]|\[(?:(?:hnsf|arb|wood)'U|PRU|iU|ppm|ppth|ppb)\]"
_SUV = r"SUV(?:bw|bsa|ibw|lbm(?:\(James128\)|\(Janma\))?)"
_NOTES = rf"\{{(?:{_SUV}|counts|[Pp]rop(?:counts|cps)|ratio|Particles|Tissue|WetWeight)\}}"
_TENS = r"10{0,3}"  # no other number: a day and an hour are a date, as 19.12.68h
_PART = rf"(?:(?:{_TENS})?|\[100\])(?:{_NOTES})?(?:{_WHOLE_ATOMS}|{_ATOMS})[+-]?\d?(?:{_NOTES})?|{_TENS}|{_NOTES}"
_TERM = rf"(?:{_PART}|\((?:{_PART})(?:[./](?:{_PART}))*\))"
_UCUM = re.compile(rf"1|(?=.*[A-Za-z%])/?{_TERM}(?:[./]{_TERM})*")
"""Pattern of the units in CIDs 83 to 85, 4260, 7181 and 7277 (PS3.16). A unit with any other word or number is not
accepted, because it may name a person.
"""
_SAME = {"1": "", "[hnsf'U]": "HU", "Bq/ml": "BQML", "{SUVbw}g/ml": "SUVbw", "g/ml{SUVbw}": "SUVbw"}
"""Unit in UCUM -> spelling of this unit in other DICOM elements; 1 stands for no unit."""


@dataclass(frozen=True)
class RealWorldMapping:
    """Mapping of the stored values from `first` to `last` to real values in `unit`.

    A real value is `slope` * stored value + `intercept`, or an entry of `table`.

    `flaw` is the reason why the mapping cannot be used; empty if it can be used.
    """

    label: str
    """(0040,9210) LUTLabel if it cannot name a person, else empty."""
    said_label: str = field(repr=False)
    """The label as in the file, for comparison; never shown."""
    unit: str = ""
    is_unit_known: bool = True
    first: float = -math.inf
    last: float = math.inf
    slope: float = 1.0
    intercept: float = 0.0
    table: tuple[float, ...] = field(default=(), repr=False)
    flaw: str = ""

    def __str__(self) -> str:
        return f"{self.label or UNLABELED} ({self.unit})" if self.unit else self.label or UNLABELED

    @property
    def meaning(self) -> Meaning:
        """Return the meaning of stored values under this mapping."""
        table = LookupTable(np.array(self.table, np.float64), int(self.first), 0) if self.table else None
        kind = self.unit if self.is_unit_known else NO_TERM
        return Meaning(self.slope, self.intercept, self.unit, table, "mapping", kind)

    def count_unmapped(self, stored: Num[Array, "h w"], padding: Padding | None) -> int:
        """Return how many of the pixels that are not padding have no real-world value."""
        values = measured(stored, padding)
        return int(((values < self.first) | (values > self.last)).sum())


def mappings(dataset: Dataset, index: int, *, is_signed: bool) -> tuple[RealWorldMapping, ...]:
    """Return the distinct mappings of a frame, from its own functional groups, the shared ones, or the instance.

    `is_signed` states whether pixels are signed. If they are, the bounds of the mapped range are read as signed,
    whatever VR was written.
    """
    for level in (*groups(dataset, index), dataset):
        items = level.get(KEYWORD) or ()
        if items:
            personal = personal_words(dataset)
            return tuple(dict.fromkeys(_mapping(item, personal, is_signed) for item in items))
    return ()


def named(found: Sequence[RealWorldMapping], label: str) -> RealWorldMapping:
    """Return the mapping with the given label.

    Raises:
        UnsupportedError: If no mapping, or more than one, has this label; available labels are listed unless they may
            name a person.
        UnreadableError: If the mapping cannot be used.
    """
    chosen = [one for one in found if one.said_label == label.strip()]
    if len(chosen) != 1:
        shown = ", ".join(dict.fromkeys(one.label for one in found if one.label))
        hidden = sum(not one.label for one in found)
        there = "; ".join(filter(None, (shown, f"{hidden} without a label that can be shown" if hidden else "")))
        raise UnsupportedError(
            f"{len(chosen)} items of {ELEMENT} have the (0040,9210) LUTLabel that values.mapping names; "
            f"expected one: available labels are {there}"
        )
    if chosen[0].flaw:
        raise UnreadableError(f"the item of {ELEMENT} that values.mapping names {chosen[0].flaw}")
    return chosen[0]


def only(found: Sequence[RealWorldMapping], *, is_rescaled: bool) -> RealWorldMapping | None:
    """Return the mapping that is applied to a frame by default; None if no mapping is applied by default.

    A mapping is applied by default if it is the only one in `found`, if it can be used, and if the frame has no
    rescale.
    """
    return found[0] if len(found) == 1 and not is_rescaled and not found[0].flaw else None


def require_all_mapped(mapping: RealWorldMapping, num_unmapped: int) -> None:
    """Check that a requested mapping covers all pixels.

    Raises:
        UnsupportedError: If some pixels are outside the mapped range.
    """
    if num_unmapped:
        raise UnsupportedError(
            f"{num_unmapped} pixels are outside the stored values {mapping.first:g} to {mapping.last:g} to which "
            f"the item of {ELEMENT} that values.mapping names gives real-world values; expected all within"
        )


def _mapping(item: Dataset, personal: PersonalWords, is_signed: bool) -> RealWorldMapping:
    file_label = text(item, "LUTLabel")
    unit, is_known = _unit(item)
    first, last = (_bound(item, end, is_signed) for end in ("First", "Last"))
    slope, intercept = (number(item, f"RealWorldValue{part}") for part in ("Slope", "Intercept"))
    table = () if slope is not None else _entries(item)
    return RealWorldMapping(
        label=product_text(file_label, personal),
        said_label=file_label,
        unit=unit,
        is_unit_known=is_known,
        first=-math.inf if first is None else first,
        last=math.inf if last is None else last,
        slope=1.0 if slope is None else slope,
        intercept=0.0 if slope is None or intercept is None else intercept,
        table=table,
        flaw=_flaw((first, last), slope, intercept, table),
    )


def _flaw(
    bounds: tuple[float | None, float | None], slope: float | None, intercept: float | None, table: tuple[float, ...]
) -> str:
    first, last = bounds
    if None not in bounds and (first or 0.0) > (last or 0.0):
        return f"maps stored values from {first:g} to {last:g}; expected the lower one first"
    if not table:
        has_both = slope is not None and intercept is not None
        is_line = has_both and slope != 0.0
        return (
            ""
            if is_line
            else "has neither a slope other than 0 with an intercept nor (0040,9212) RealWorldValueLUTData"
        )
    num_mapped = None if first is None or last is None else int(last - first) + 1
    if num_mapped != len(table) or not np.isfinite(table).all():
        return f"has a table of {len(table)} numbers for {num_mapped or 'unknown'} stored values; expected one for each"
    return ""


def _entries(item: Dataset) -> tuple[float, ...]:
    value = item.get("RealWorldValueLUTData")
    if value is None or isinstance(value, str | bytes):
        return ()
    return (float(value),) if isinstance(value, int | float) else tuple(map(float, value))


def _bound(item: Dataset, end: str, is_signed: bool) -> float | None:
    """Return the first or last stored value that is mapped; None if the item lacks it."""
    value = item.get(f"RealWorldValue{end}ValueMapped")
    if (
        isinstance(value, bytes) and len(value) == 2
    ):  # of implicit value representation: has the signedness of the pixels
        value = int.from_bytes(value, "little")
    if isinstance(value, int):
        return float(value - 2**16 if is_signed and value >= 2**15 else value)
    return number(item, f"DoubleFloatRealWorldValue{end}ValueMapped")


def _unit(item: Dataset) -> tuple[str, bool]:
    """Return the unit of an item, and whether it is a known unit; the text of an unknown unit is not kept."""
    code = next(iter(item.get("MeasurementUnitsCodeSequence") or ()), None)
    unit = "" if code is None else text(code, "CodeValue") or text(code, "LongCodeValue")
    if code is None or text(code, "CodingSchemeDesignator") != "UCUM" or not _UCUM.fullmatch(unit):
        _warn()
        return "", False
    return _SAME.get(unit, unit), True


@cache
def _warn() -> None:
    log.warning("the unit in %s of some files is not a known UCUM unit; it is treated as unset", ELEMENT)
