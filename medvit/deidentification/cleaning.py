"""De-identification of a DICOM data set (PS3.15 Annex E), without changes to its pixel data.

An identifier is replaced by its keyed hash (`pseudonyms`). The same patient, study or instance therefore gets the same
pseudonym or UID in every data set of the site, and all dates of one patient are shifted by the same number of days.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvit.deidentification.dates import DUMMIES, shifted
from medvit.deidentification.identifiers import MIN_SUBSTRING, forbidden_words
from medvit.deidentification.pixels import check_pixels, transfer_syntax
from medvit.deidentification.profile import (
    BINARY,
    CODES,
    KINDS,
    NUMBERS,
    SAFE_PRIVATE,
    STANDARD_ROOT,
    TEXT,
    Action,
    Profile,
)
from medvit.deidentification.vocabulary import clean, is_common, words_of
from medvit.dicom.element_values import BY_KEYWORD
from medvit.errors import UnreadableError
from medvit.readers.dicom_texts import element_at, elements, texts

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

METHOD = "medvit, DICOM PS3.15 Annex E"
MASKED = "lines of writing that a detector found are blanked"
REMOVED = "REMOVED"
"""Replacement for a text that must be removed from an element that may not be empty."""
OLDEST = 89
"""Highest age in years that is kept. All higher ages become 90 years, because they are rare (45 CFR
164.514(b)(2)(i)(C)).
"""
UTF_8 = "ISO_IR 192"

_CODE_STRING = re.compile(r"[A-Z0-9_ ]{0,16}")
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_NUMBER = re.compile(r"\s*([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)?\s*")
"""A valid DS or IS value (PS3.5 6.2), or an empty one."""
_NUMERIC = re.compile(rb"[\d\s\\.+\-eE\x00]*")
_SHORT_TEXT = {"AE": 16, "SH": 16, "LO": 64}


@dataclass(frozen=True)
class Replacements:
    """Replacements for the identifiers of one patient: a pseudonym, a date shift in days, and new UIDs."""

    patient: str
    days: int
    uid: Callable[[str], str] = field(repr=False)


def deidentified(dataset: Dataset, profile: Profile, by: Replacements, *, writing: str = "") -> Dataset:
    """Return a de-identified copy of a data set, with new file meta information.

    `writing` is `masked` or `kept` if burned-in text was found, else empty. If it was found, the copy does not declare
    that it is free of burned-in text. A masked copy does not claim the Clean Pixel Data Option (113101), which would
    guarantee the removal of all text, because the detector may miss some.

    Raises:
        UnreadableError: If compressed pixels have an identifier in a comment, or the SOP class is missing.
    """
    from pydicom.dataset import FileMetaDataset

    forbidden = forbidden_words(dataset, profile)
    copy = _Cleaning(profile, by, forbidden).dataset(dataset)
    _complete(copy, dataset, by)
    _declare(copy, profile, writing)
    check_pixels(copy, dataset, forbidden)
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = transfer_syntax(dataset)
    copy.file_meta.MediaStorageSOPClassUID = copy.SOPClassUID
    copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    return copy


@dataclass(frozen=True)
class _Cleaning:
    """Cleaning of one data set; `forbidden` are its identifying words, in lower case."""

    profile: Profile
    by: Replacements
    forbidden: frozenset[str]

    def dataset(self, dataset: Dataset) -> Dataset:
        from pydicom import Dataset

        copy = Dataset()
        for element in elements(dataset):
            kept = self._private(dataset, element) if element.tag.is_private else self._standard(element)
            if kept is not None:
                copy.add(kept)
        if (
            not all(text.isascii() for element in copy for text in _plain_texts(element))
            or "SpecificCharacterSet" in copy
        ):
            copy.SpecificCharacterSet = UTF_8
        return copy

    def _standard(self, element: DataElement) -> DataElement | None:
        vr = str(element.VR)
        action = self.profile.action(int(element.tag), vr)
        if action is Action.REMOVE:
            return None
        if action is Action.ENTER:
            return _with(element, [self.dataset(item) for item in element.value or ()])
        if action is Action.EMPTY:
            return _with(element, [] if vr == "SQ" else b"" if vr in ("OB", "OW", "UN") else "")
        if action is Action.DUMMY:
            return _with(element, _dummy(vr))
        if action is Action.PSEUDONYM:
            return _with(element, self.by.patient)
        if action is Action.CLEAN:
            return _with(element, self._cleaned(element, vr))
        return self._kept(element, vr, action)

    def _kept(self, element: DataElement, vr: str, action: Action) -> DataElement | None:
        if vr == "UI":
            return _with(element, [self._uid(text, element.keyword, action) for text in texts(element.value)])
        if action is Action.SHIFT:
            return self._moved(element, vr)
        if element.keyword in BINARY:
            return element if element.keyword == "PixelData" or self._is_free(element.value) else None
        if vr == "AS":
            return _with(element, [_age(text) for text in texts(element.value)])
        if vr in NUMBERS:
            return element if self._is_plain_number(element, vr) else _with(element, b"" if vr[0] in "US" else "")
        if action is Action.CODE:
            return self._coded(element, vr)
        return None

    def _private(self, dataset: Dataset, element: DataElement) -> DataElement | None:
        tag = int(element.tag)
        if element.tag.is_private_creator:
            block = (int(other) for other in sorted(dataset.keys()) if int(other) >> 8 == tag >> 16 << 8 | tag & 0xFF)
            return element if any(self._stays(dataset, element_at(dataset, other)) for other in block) else None
        return element if self._stays(dataset, element) else None

    def _stays(self, dataset: Dataset, element: DataElement | None) -> bool:
        if element is None or str(element.VR) == "SQ":
            return False
        tag = int(element.tag)
        creator = element_at(dataset, tag >> 16 << 16 | (tag & 0xFFFF) >> 8)
        name = str(creator.value) if creator is not None else ""
        if not self.profile.keeps_private(name, tag):
            return False
        is_default = f"{name.strip()}:{tag >> 16:04X},{tag & 0xFF:02X}" in SAFE_PRIVATE
        is_number = isinstance(element.value, bytes) and _NUMERIC.fullmatch(element.value) is not None
        if str(element.VR) in NUMBERS or is_number:
            return is_number or self._is_plain_number(element, str(element.VR))
        return not is_default and self._is_free(element.value)

    def _uid(self, uid: str, keyword: str, action: Action) -> str:
        if not uid or uid.startswith(STANDARD_ROOT):
            return uid
        if (action is Action.KEEP or keyword in KINDS) and _UID.fullmatch(uid) and len(uid) <= 64:
            return uid
        return self.by.uid(uid)

    def _moved(self, element: DataElement, vr: str) -> DataElement:
        if vr not in DUMMIES:  # the offset from UTC, which is not a date
            value = str(element.value)
            return _with(element, value if re.fullmatch(r"[+-]\d{4}", value) else "")
        return _with(element, [shifted(text, vr, self.by.days) for text in texts(element.value)])

    def _coded(self, element: DataElement, vr: str) -> DataElement:
        if element.keyword in BY_KEYWORD:
            return _with(element, [BY_KEYWORD[element.keyword].in_copy(text) for text in texts(element.value)])
        if vr == "CS":
            return _with(element, [self._code(text, element.keyword) for text in texts(element.value)])
        if self._is_free(element.value):
            return element
        return _with(element, self._cleaned(element, vr))

    def _code(self, text: str, keyword: str) -> str:
        return text if not text.strip() or self._is_code(text, keyword) else REMOVED

    def _is_code(self, text: str, keyword: str) -> bool:
        if not _CODE_STRING.fullmatch(text.strip()) or re.search(r"\d{5}", text):
            return False
        if keyword == "BodyPartExamined":
            return all(is_common(word) for word in words_of(text.replace("_", " ")))
        return all(is_common(word) for word in words_of(text.replace("_", " "))) or self._is_free(text)

    def _cleaned(self, element: DataElement, vr: str) -> list[str]:
        limit = _SHORT_TEXT.get(vr, 1024)
        return [
            (clean(text, self.forbidden, self.profile.words) or REMOVED)[:limit].strip() if text.strip() else ""
            for text in texts(element.value)
        ]

    def _is_free(self, value: Any) -> bool:
        """Return whether a value contains none of the identifying words."""
        if isinstance(value, bytes):
            folded = value.lower()
            return not any(word.encode() in folded for word in self.forbidden if len(word) >= MIN_SUBSTRING)
        text = " ".join(texts(value)).casefold()
        if any(word in self.forbidden for word in words_of(text)):
            return False
        return not any(word in text for word in self.forbidden if len(word) >= MIN_SUBSTRING)

    def _is_plain_number(self, element: DataElement, vr: str) -> bool:
        """Return whether the value of a numeric element may be kept: it is a number, and not an identifier."""
        if vr in ("DS", "IS") and not all(_NUMBER.fullmatch(text) for text in texts(element.value)):
            return False
        if vr not in ("IS", "DS", "UL", "UV", "SV", "SL"):
            return True
        return not any(len(text) > MIN_SUBSTRING and text in self.forbidden for text in texts(element.value))


def _with(element: DataElement, value: Any) -> DataElement:
    from pydicom import DataElement
    from pydicom.config import IGNORE

    if isinstance(value, list) and str(element.VR) != "SQ":
        value = value[0] if len(value) == 1 else value if any(value) else ""
    return DataElement(element.tag, element.VR, value, validation_mode=IGNORE)


def _dummy(vr: str) -> Any:
    if vr in DUMMIES:
        return DUMMIES[vr]
    if vr == "UR":
        return "http://removed.invalid"
    if vr == "AS":
        return "000Y"
    if vr in ("DS", "IS"):
        return "0"
    if vr in NUMBERS:
        return 0
    return REMOVED if vr in TEXT or vr == "CS" else b"\0\0"


def _age(text: str) -> str:
    match = re.fullmatch(r"(\d{3})([DWMY])", text.strip())
    if match is None:
        return ""
    return f"{OLDEST + 1:03d}Y" if match[2] == "Y" and int(match[1]) > OLDEST else match[0]


def _plain_texts(element: DataElement) -> list[str]:
    return texts(element.value) if str(element.VR) in TEXT else []


def _complete(copy: Dataset, source: Dataset, by: Replacements) -> None:
    """Add to the copy the identifiers that every DICOM file must have, if the source lacks them."""
    meta = source.file_meta
    if not copy.get("SOPClassUID"):
        copy.SOPClassUID = str(meta.get("MediaStorageSOPClassUID") or "")
    if not copy.SOPClassUID:
        raise UnreadableError(
            "the file has no (0008,0016) SOPClassUID, which every DICOM file must have; exclude the file"
        )
    if not copy.get("SOPInstanceUID"):
        stored_uid = str(meta.get("MediaStorageSOPInstanceUID") or "")
        copy.SOPInstanceUID = by.uid(stored_uid or hashlib.sha256(bytes(source.get("PixelData") or b"")).hexdigest())
    copy.PatientName = copy.PatientID = by.patient


def _declare(copy: Dataset, profile: Profile, writing: str) -> None:
    """Write into the copy which de-identification methods were applied (PS3.3 C.12.1.1.1 and C.7.1.1)."""
    from pydicom import Dataset

    copy.PatientIdentityRemoved = "YES"
    copy.DeidentificationMethod = [METHOD, MASKED] if writing == "masked" else METHOD
    done = ["profile", *sorted(profile.options), *(["private"] if profile.private else [])]
    copy.DeidentificationMethodCodeSequence = []
    for name in done:
        code = Dataset()
        code.CodeValue, code.CodeMeaning = CODES[name]
        code.CodingSchemeDesignator = "DCM"
        copy.DeidentificationMethodCodeSequence.append(code)
    copy.LongitudinalTemporalInformationModified = "MODIFIED" if "dates" in profile.options else "REMOVED"
    if writing == "kept" or (writing and "BurnedInAnnotation" in copy):  # some classes require it
        copy.BurnedInAnnotation = "YES"
