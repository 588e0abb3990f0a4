"""Meaning of the stored values of a frame: modality table, rescale and unit.

These are read from the instance or its functional groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medvit.dicom.element_values import MODALITY_LUT_TYPE, PET_UNITS, RESCALE_TYPE, Terms
from medvit.dicom.lookup_tables import LookupTable, lookup_table
from medvit.errors import UnreadableError

if TYPE_CHECKING:
    from pydicom import Dataset

CT_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "2.1", "2.2"))
PET_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("128", "128.1", "130"))
"""SOP classes of CT (`CT_CLASSES`) and PET images: classic, enhanced, and converted from classic to enhanced (PS3.4
B.5).
"""

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
UNSPECIFIED = "US"
"""Rescale type for an unspecified unit (PS3.3 C.11.1.1.2)."""


NO_TERM = "free text"
"""Placeholder for a rescale type that is not a standard term. Messages never quote the type itself, which may name a
person.
"""


@dataclass(frozen=True)
class ValueFacts:
    """Facts about the conversion of a frame to real values.

    Frames that differ in these facts cannot be compared value by value.

    `scaling` is `none`, `rescale`, `table`, `mapping` or `displayed`. `rescale_type` is the type that the file states
    for the rescale or table (or its default), or the unit of the mapping.
    """

    scaling: str = "none"
    rescale_type: str = ""
    photometric: str = ""
    is_dark_high: bool = False
    """Whether the file displays high values dark."""
    is_signed: bool = False
    bits: int = 0
    """(0028,0101) BitsStored."""
    label: str = ""
    """(0040,9210) LUTLabel of the mapping if it cannot name a person, else empty."""
    said_label: str = field(default="", repr=False)
    """The label as in the file; never shown."""

    def is_turned(self, unit: str) -> bool:
        """Return whether values are inverted, so that high values are bright.

        Quantities, that is, values with a unit or a mapping, are never inverted.
        """
        return self.is_dark_high and not unit and self.scaling != "mapping"

    @property
    def scaled(self) -> str:
        """Scaling in words, such as `no rescale` or `a rescale to HU`."""
        if self.scaling == "none":
            return "no rescale"
        if self.scaling == "displayed":
            return "values as displayed"
        kind = "another unit" if self.rescale_type == NO_TERM else self.rescale_type or "values without a unit"
        return f"a {self.scaling} to {kind}" + (f" labeled {self.label}" if self.label else "")


@dataclass(frozen=True)
class Meaning:
    """Meaning of stored values: real value = `slope` * x + `intercept`, in `unit`.

    Here, x is the stored value or, with a `table`, its entry in the table.
    """

    slope: float = 1.0
    intercept: float = 0.0
    unit: str = ""
    table: LookupTable | None = None
    scaling: str = "none"
    """Source of the scaling: none, rescale, table or mapping."""
    rescale_type: str = ""
    """(0028,1054) RescaleType or (0028,3004) ModalityLUTType (or its default), or the unit of a mapping."""


def meaning(dataset: Dataset, index: int, *, is_little: bool, is_signed: bool) -> Meaning:
    """Return the meaning of the values of a frame, from its functional groups, else from the instance.

    A modality table gives whole numbers and replaces the rescale (PS3.3 C.11.1).

    Raises:
        UnreadableError: If the rescale slope is 0 or not a number, or the table is damaged.
    """
    for items in (dataset.get("ModalityLUTSequence") or ())[:1]:
        if "LUTDescriptor" not in items and "LUTData" not in items:
            break  # an empty item is ignored: the rescale applies
        table = lookup_table(items, is_little=is_little, is_signed=is_signed)
        kind = _term(dataset, MODALITY_LUT_TYPE, items.get("ModalityLUTType"))
        unit = _unit(dataset, kind, is_rescaled=True)
        return Meaning(unit=unit, table=table, scaling="table", rescale_type=kind)
    for group in groups(dataset, index):
        for item in (group.get("PixelValueTransformationSequence") or ())[:1]:
            declared = str(item.get("RescaleType") or UNSPECIFIED).strip()
            # Scanners write the unit of enhanced PET here.
            kind = declared if declared in PET_UNITS.terms else RESCALE_TYPE.of(declared) or UNSPECIFIED
            unit = _unit(dataset, kind, is_rescaled=True) or ("" if kind == UNSPECIFIED else kind)
            return Meaning(*_rescale(item), unit, scaling=_scaling(item), rescale_type=kind)
    scaling, kind = _scaling(dataset), _term(dataset, RESCALE_TYPE, dataset.get("RescaleType"))
    unit = _unit(dataset, kind, is_rescaled=dataset.get("RescaleSlope") is not None)
    return Meaning(*_rescale(dataset), unit, scaling=scaling, rescale_type="" if scaling == "none" else kind)


def groups(dataset: Dataset, index: int) -> Iterator[Dataset]:
    """Yield the functional groups of a frame: first its own, then those shared by all frames (PS3.3 C.7.6.16)."""
    own = dataset.get(PER_FRAME) or ()
    if index < len(own):
        yield own[index]
    yield from (dataset.get(SHARED) or ())[:1]


def class_of(dataset: Dataset) -> str:
    """Return the SOP class of an instance, from the file meta information if the data set lacks it."""
    return str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")


def is_pet(dataset: Dataset) -> bool:
    """Return whether an instance is PET by its SOP class, or by its modality if it has no class."""
    sop_class = class_of(dataset)
    return sop_class in PET_CLASSES if sop_class else dataset.get("Modality") == "PT"


def number(dataset: Dataset, keyword: str) -> float | None:
    """Return the number of an element, or the first of its numbers; None if it is missing or not a finite number."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    try:
        first = value if isinstance(value, (str, int, float)) else next(iter(value))
        found = float(first)
    except (TypeError, ValueError, StopIteration):
        return None
    return found if math.isfinite(found) else None


def _rescale(item: Dataset) -> tuple[float, float]:
    given = {keyword: item.get(keyword) not in (None, "") for keyword in ("RescaleSlope", "RescaleIntercept")}
    slope, intercept = number(item, "RescaleSlope"), number(item, "RescaleIntercept")
    if slope == 0.0:
        raise UnreadableError("(0028,1053) RescaleSlope is 0; expected another number")
    if (given["RescaleSlope"] and slope is None) or (given["RescaleIntercept"] and intercept is None):
        raise UnreadableError("(0028,1053) RescaleSlope or (0028,1052) RescaleIntercept is not a number")
    return (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)


def _scaling(item: Dataset) -> str:
    has_slope, has_intercept = (item.get(f"Rescale{part}") not in (None, "") for part in ("Slope", "Intercept"))
    if has_slope != has_intercept:
        return "rescale without intercept" if has_slope else "rescale without slope"
    return "rescale" if has_slope else "none"


def _is_ct(dataset: Dataset) -> bool:
    sop_class = class_of(dataset)
    return sop_class in CT_CLASSES if sop_class else dataset.get("Modality") == "CT"


def _term(dataset: Dataset, terms: Terms, value: object) -> str:
    """Return the type of a rescale or table as a defined term; HU for a CT without a type (PS3.3 C.8.2.1.1.2)."""
    text = str(value or "").strip()
    if not text:
        return "HU" if _is_ct(dataset) else UNSPECIFIED
    return terms.of(text) or NO_TERM


def _unit(dataset: Dataset, kind: str, *, is_rescaled: bool) -> str:
    if _is_ct(dataset) and is_rescaled:
        return "" if kind in (UNSPECIFIED, NO_TERM) else kind
    return PET_UNITS.of(str(dataset.get("Units") or "")) if is_pet(dataset) else ""
