"""Acquisition attributes of an image that identify nobody: scanner, protocol, age and sex.

Datasets are compared by these attributes. A text is kept only if it consists of the plain characters of product names,
contains no long number or date, and shares no word with the patient's name or identifier, the institution or its staff,
because an operator may type anything into any field. Ages are whole years; ages of 89 and above form one group, as 45
CFR 164.514(b)(2)(i)(C) requires for ages above 89.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import TYPE_CHECKING

from medvit.dicom.direct.fast_dataset import FastDataset
from medvit.dicom.direct.fast_values import tag_of
from medvit.dicom.element_values import PERSONAL, SCANNING_SEQUENCE, joined_text, numbers, personal_words, product_text
from medvit.dicom.file import open_elements
from medvit.dicom.header import RADIOGRAPHS
from medvit.errors import MedvitError
from medvit.files.guard import decoding
from medvit.records import Item

if TYPE_CHECKING:
    from pydicom import Dataset

TEXTS: Mapping[str, str] = {
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "kernel": "ConvolutionKernel",
    "sequence": "ScanningSequence",
}
NUMBERS: Mapping[str, str] = {
    "field_strength_t": "MagneticFieldStrength",
    "kvp": "KVP",
    "slice_thickness_mm": "SliceThickness",
    "echo_time_ms": "EchoTime",
    "repetition_time_ms": "RepetitionTime",
}
AGE, SEX = "age_years", "sex"
PIXEL_SPACING = "pixel_spacing"
"""Name of the attribute that states the origin of a radiograph's pixel spacing: `calibrated` (PixelSpacing) or
`detector` (not corrected for magnification).
"""
KEYS = (*TEXTS, *NUMBERS, PIXEL_SPACING, AGE, SEX)
"""Attributes recorded for an image if its file has them."""

OLDEST_YEARS = 89
MAX_YEARS = 130
GAUSS = 100.0
"""Values of (0018,0087) above this are in gauss, a unit that some scanners use; no scanner has such a field in tesla.
"""

_SPACING = ("PixelSpacing", "ImagerPixelSpacing", "PixelSpacingCalibrationType", "Modality")
_READ = (*_SPACING, *TEXTS.values(), *NUMBERS.values(), *PERSONAL, "PatientAge", "PatientSex", "SpecificCharacterSet")


def attributes(item: Item) -> Mapping[str, str]:
    """Return the attributes in `KEYS`, in order, from the first file of an image; empty if the file is not DICOM.

    A file that can no longer be opened yields no attributes here; the error is raised when its pixels are read.
    """
    if item.reader != "dicom":
        return {}
    tags = tuple(map(tag_of, (*_READ, "SharedFunctionalGroupsSequence")))
    try:
        with decoding("the DICOM header"):
            return read_attributes(open_elements(item.files[0], stop_before_pixels=True, specific_tags=tags))
    except MedvitError:
        return {}


def read_attributes(dataset: FastDataset | Dataset) -> Mapping[str, str]:
    """Return the attributes in `KEYS` from a DICOM data set: top-level elements or shared functional groups."""
    levels = [dataset, *_shared_groups(dataset)]
    personal = personal_words(dataset)
    found = {key: product_text(_first(levels, keyword), personal) for key, keyword in TEXTS.items()}
    found["sequence"] = "\\".join(filter(None, map(SCANNING_SEQUENCE.of, found["sequence"].split("\\"))))
    found |= _quantities(levels)
    found[PIXEL_SPACING] = _pixel_spacing(dataset)
    sex = joined_text(dataset.get("PatientSex")).upper()
    found |= {AGE: _age(dataset), SEX: sex if sex in ("F", "M", "O") else ""}
    return {key: text for key, text in found.items() if text}


def quantities(dataset: Dataset) -> Mapping[str, str]:
    """Return the attributes in `NUMBERS` that a DICOM data set has, formatted as in the manifest."""
    return {key: text for key, text in _quantities([dataset, *_shared_groups(dataset)]).items() if text}


def _quantities(levels: list[Dataset]) -> dict[str, str]:
    found = {key: _number(_first(levels, keyword)) for key, keyword in NUMBERS.items()}
    if found["field_strength_t"] and float(found["field_strength_t"]) > GAUSS:
        found["field_strength_t"] = f"{float(found['field_strength_t']) / 1e4:.4g}"
    return found


def _shared_groups(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the items of the shared functional groups of an enhanced object (PS3.3 C.7.6.16)."""
    for group in dataset.get("SharedFunctionalGroupsSequence") or ():
        for element in group:
            if element.VR == "SQ":
                yield from element.value or ()


def _first(levels: list[Dataset], keyword: str) -> str:
    return next((text for level in levels if (text := joined_text(level.get(keyword)))), "")


def _pixel_spacing(dataset: FastDataset | Dataset) -> str:
    """Return `detector` or `calibrated`: whether the pixel spacing of a radiograph is that of its detector.

    The result is empty for other images, and for radiographs without a pixel spacing.
    """
    if joined_text(dataset.get("Modality")).upper() not in RADIOGRAPHS:
        return ""
    own, imager = numbers(dataset, "PixelSpacing", 2), numbers(dataset, "ImagerPixelSpacing", 2)
    if own is None:
        return "" if imager is None else "detector"
    is_calibrated = own != imager or joined_text(dataset.get("PixelSpacingCalibrationType"))
    return "calibrated" if is_calibrated else "detector"


def _number(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        return ""
    return f"{value:.6g}" if 0 < value < 1e5 else ""


def _age(dataset: Dataset) -> str:
    """Return the age at the study in whole years, from (0010,1010) PatientAge or from birth date and study date."""
    text = joined_text(dataset.get("PatientAge")).upper()
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text)
    if match:
        years = int(match[1]) // {"D": 365, "W": 52, "M": 12, "Y": 1}[match[2]]
    else:
        born, seen = (_date(joined_text(dataset.get(keyword))) for keyword in ("PatientBirthDate", "StudyDate"))
        if born is None or seen is None:
            return ""
        years = seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day))
    return str(min(years, OLDEST_YEARS)) if 0 <= years <= MAX_YEARS else ""


def _date(text: str) -> date | None:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return None
