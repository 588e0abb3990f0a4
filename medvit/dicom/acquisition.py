"""How and of whom an image was taken, as far as it identifies nobody: the columns by which datasets are compared.

Texts are kept only in the plain characters of product names, without a long number or a date, and if no word of them
is one of the patient's name or identifier, of the institution or of its staff: an operator may type anything anywhere.
Ages are whole years, those from 89 on one group (45 CFR 164.514(b)(2)(i)(C) asks for it above 89).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from medvit.dicom.direct.fast_dataset import FastDataset
from medvit.dicom.direct.fast_values import tag_of
from medvit.dicom.element_values import SCANNING_SEQUENCE, numbers
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
"""Of projection radiographs: `calibrated` by PixelSpacing, or of the `detector`, magnification not taken off."""
KEYS = (*TEXTS, *NUMBERS, PIXEL_SPACING, AGE, SEX)
"""What is recorded of an image, where its file says so."""

OLDEST_YEARS = 89
MAX_YEARS = 130
GAUSS = 100.0
"""Some scanners write the field strength in gauss; none has so many tesla (0018,0087)."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/+()\\-]{0,39}")
_LONG_NUMBER = re.compile(r"\d{6}")
_DATE = re.compile(r"\d{4}([-./ ]\d{1,2}){2}|(\d{1,2}[-./ ]){2}\d{4}|\d{1,2}([-/])\d{1,2}\3\d{2}")
"""A day; with a year of two digits and dots it might be a version."""
_WORD = re.compile(r"[^\W_]{2,}")
_AS_TEXT = (None, b"PN", b"LO", b"SH", b"ST", b"LT", b"UT", b"UC", b"DA", b"DT")
"""Value representations whose bytes are the text; none is what the standard says."""
MAX_NAMES = 4
"""Words of a patient's name that are tried joined."""
_PERSONAL = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "PatientAddress",
    "PatientBirthDate",
    "AccessionNumber",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "ReferringPhysicianName",
    "OperatorsName",
    "PerformingPhysicianName",
    "StudyID",
    "StudyDate",
    "DeviceSerialNumber",
)
_SPACING = ("PixelSpacing", "ImagerPixelSpacing", "PixelSpacingCalibrationType", "Modality")
_READ = (*_SPACING, *TEXTS.values(), *NUMBERS.values(), *_PERSONAL, "PatientAge", "PatientSex", "SpecificCharacterSet")


class _Personal(NamedTuple):
    """What names someone, in lower case: any of the words, two of the name, or two of it without a space."""

    words: frozenset[str]
    name: frozenset[str]
    joined: tuple[str, ...]


def attributes(item: Item) -> Mapping[str, str]:
    """What the first file of an image says of `KEYS`, in their order; nothing of files other than DICOM.

    A file that no longer opens says nothing: reading its pixels tells why.
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
    """What a DICOM data set says of `KEYS`, at its top or in the shared groups of an enhanced object."""
    levels = [dataset, *_shared_groups(dataset)]
    personal = _personal(dataset)
    found = {key: _product(_first(levels, keyword), personal) for key, keyword in TEXTS.items()}
    found["sequence"] = "\\".join(filter(None, map(SCANNING_SEQUENCE.of, found["sequence"].split("\\"))))
    found |= _quantities(levels)
    found[PIXEL_SPACING] = _pixel_spacing(dataset)
    sex = _text(dataset.get("PatientSex")).upper()
    found |= {AGE: _age(dataset), SEX: sex if sex in ("F", "M", "O") else ""}
    return {key: text for key, text in found.items() if text}


def quantities(dataset: Dataset) -> Mapping[str, str]:
    """Those of `NUMBERS` that a DICOM data set tells, as the manifest writes them."""
    return {key: text for key, text in _quantities([dataset, *_shared_groups(dataset)]).items() if text}


def _quantities(levels: list[Dataset]) -> dict[str, str]:
    found = {key: _number(_first(levels, keyword)) for key, keyword in NUMBERS.items()}
    if found["field_strength_t"] and float(found["field_strength_t"]) > GAUSS:
        found["field_strength_t"] = f"{float(found['field_strength_t']) / 1e4:.4g}"
    return found


def _shared_groups(dataset: Dataset) -> Iterator[Dataset]:
    """The macros that all frames of an enhanced object share (PS3.3 C.7.6.16)."""
    for group in dataset.get("SharedFunctionalGroupsSequence") or ():
        for element in group:
            if element.VR == "SQ":
                yield from element.value or ()


def _first(levels: list[Dataset], keyword: str) -> str:
    return next((text for level in levels if (text := _text(level.get(keyword)))), "")


def _text(value: object) -> str:
    if value is None:
        return ""
    parts = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    return "\\".join(str(part).strip() for part in parts)


def _written(dataset: FastDataset | Dataset, keyword: str) -> str:
    """The text of an element as its file has it where that is ASCII: to decode a name takes longer than all else."""
    raw = dataset.raw(tag_of(keyword)) if isinstance(dataset, FastDataset) else None
    if raw is not None and raw[0] in _AS_TEXT and raw[1].isascii() and b"\x1b" not in raw[1]:
        return raw[1].decode()
    return _text(dataset.get(keyword))


def _personal(dataset: FastDataset | Dataset) -> _Personal:
    """What names someone: words of people and places, and the words of the patient's name, which may stand joined."""
    words = {word for keyword in _PERSONAL for word in _WORD.findall(_written(dataset, keyword)) if len(word) > 2}
    name = [_forms(word) for word in _WORD.findall(_written(dataset, "PatientName"))]
    joined = {one + other for a, b in permutations(name[:MAX_NAMES], 2) for one in a for other in b}
    return _Personal(
        frozenset(form for word in words for form in _forms(word)),
        frozenset(form for forms in name[:2] for form in forms) if len(name) > 1 else frozenset(),
        tuple(text for text in joined if len(text) > 4),
    )


def _forms(word: str) -> tuple[str, ...]:
    """A word in lower case, and as it is written where there are no accents."""
    folded = word.casefold()
    if folded.isascii():
        return (folded,)
    bare = "".join(c for c in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(c))
    return folded, bare, folded.replace("ä", "ae").replace("ö", "oe").replace("ü", "ue")


def _product(text: str, personal: _Personal) -> str:
    words = {word.casefold() for word in _WORD.findall(text)}
    is_name = words & personal.words or len(words & personal.name) > 1
    is_joined = any(joined in word for word in words for joined in personal.joined)
    is_plain = _PLAIN.fullmatch(text) and not _LONG_NUMBER.search(text) and not _DATE.search(text)
    return text if is_plain and not is_name and not is_joined else ""


def _pixel_spacing(dataset: FastDataset | Dataset) -> str:
    """Which spacing a projection radiograph has; equal ones without a type of calibration are the detector's."""
    if _text(dataset.get("Modality")).upper() not in RADIOGRAPHS:
        return ""
    own, imager = numbers(dataset, "PixelSpacing", 2), numbers(dataset, "ImagerPixelSpacing", 2)
    if own is None:
        return "" if imager is None else "detector"
    is_calibrated = own != imager or _text(dataset.get("PixelSpacingCalibrationType"))
    return "calibrated" if is_calibrated else "detector"


def _number(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        return ""
    return f"{value:.6g}" if 0 < value < 1e5 else ""


def _age(dataset: Dataset) -> str:
    """Whole years at the study, by (0010,1010) PatientAge or from the two dates."""
    text = _text(dataset.get("PatientAge")).upper()
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text)
    if match:
        years = int(match[1]) // {"D": 365, "W": 52, "M": 12, "Y": 1}[match[2]]
    else:
        born, seen = (_date(_text(dataset.get(keyword))) for keyword in ("PatientBirthDate", "StudyDate"))
        if born is None or seen is None:
            return ""
        years = seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day))
    return str(min(years, OLDEST_YEARS)) if 0 <= years <= MAX_YEARS else ""


def _date(text: str) -> date | None:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return None
