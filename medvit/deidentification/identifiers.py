"""Potentially identifying values in a DICOM data set: values at any depth that the profile does not keep.

These values have two uses: they are removed from the texts that a de-identified copy keeps, and they are searched for
in a dataset, its logs and the tracker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medvit.deidentification.profile import CLEANED, DATES, NUMBERS, STANDARD_ROOT, TEXT, Action, Profile
from medvit.deidentification.vocabulary import is_common, words_of
from medvit.readers.dicom_texts import element_texts
from medvit.records import FileText

if TYPE_CHECKING:
    from pydicom import Dataset

STRICT = Profile(frozenset())
"""Basic profile without any option: everything it removes counts as identifying."""

MIN_WORD, MIN_NUMBER = 3, 4
"""Minimum letters of a word, and minimum digits of a number, that may identify someone: shorter ones occur
everywhere.
"""

KEPT = (Action.KEEP, Action.CODE)
_TELLING_META = ("MediaStorageSOPInstanceUID", "SourceApplicationEntityTitle", "PrivateInformation")


@dataclass(frozen=True)
class IdentifyingValue:
    """Value of an element that the profile does not keep; `element` is its tag and keyword."""

    text: str = field(repr=False)
    element: str
    vr: str
    is_descriptor: bool


def values(dataset: Dataset, profile: Profile = STRICT) -> Iterator[IdentifyingValue]:
    """Yield all values of a data set, at any depth and in the file meta information, that a profile does not keep."""
    for text in element_texts(dataset):
        value = identifying(text, profile)
        if value is not None:
            yield value


def forbidden_words(dataset: Dataset, profile: Profile) -> frozenset[str]:
    """Return the words, in lower case, that must be removed from every text: names, identifiers, institutions."""
    found: set[str] = set()
    for value in values(dataset, profile):
        if value.vr in DATES or value.vr in ("UI", "UN", "OB", "OW") or value.is_descriptor:
            continue
        words = filter(is_identifying_word, words_of(value.text))
        found |= {word for word in words if value.vr == "PN" or not is_common(word)}
    return frozenset(found)


def is_identifying_word(word: str) -> bool:
    """Return whether a word or number is long enough to identify someone."""
    if word.isdigit():
        return len(word.lstrip("0")) >= MIN_NUMBER
    return len(word) >= (MIN_WORD if word.isascii() else 2)


def identifying(text: FileText, profile: Profile = STRICT) -> IdentifyingValue | None:
    """Return a text of a file as an identifying value if it may identify a patient, else None.

    A text of a DICOM element may identify a patient if `profile` does not keep it. Outside DICOM, any text may.
    """
    if not text.text.strip():
        return None
    if text.tag is None:
        vr = "DA" if text.kind == "date" else ""
        return IdentifyingValue(text.text.strip(), text.place, vr, is_descriptor=text.kind == "note")
    keyword = text.place.rpartition(" ")[2]
    if not _identifies(text, keyword, profile):
        return None
    return IdentifyingValue(text.text, text.place, text.vr, keyword in CLEANED["descriptors"])


def _identifies(text: FileText, keyword: str, profile: Profile) -> bool:
    tag, vr = text.tag or 0, text.vr
    if tag >> 16 & 1:
        is_creator = 0x10 <= tag & 0xFFFF < 0x100
        return not is_creator and vr not in NUMBERS
    if tag >> 16 == 2:
        return keyword in _TELLING_META
    if vr == "UI" and text.text.startswith(STANDARD_ROOT):
        return False
    if vr in TEXT or vr in DATES or vr in ("UI", "UN", "OB", "IS", "DS"):
        action = profile.action(tag, vr)
        return action not in KEPT and not (vr == "TM" and action is Action.SHIFT)  # times of day are kept
    return False


FILE, SPLIT, PATIENT = "file", "split", "patient"

_PERSONAL = re.compile(
    r".*name.*|(patient|person|case|study|accession|medical_record)[ _]?(id|number|nr|no)?|mrn|ssn|.*birth.*|dob|"
    r".*instance[ _]?uid|(study|series)[ _]?uid|.*date.*|address|phone|e?-?mail|comments?|notes?",
    re.IGNORECASE,
)


def is_personal(column: str) -> bool:
    """Return whether the cells of a column with this name identify patients or name their files."""
    return column.casefold() in (PATIENT, FILE) or _PERSONAL.fullmatch(column) is not None


MIN_SUBSTRING = 5
"""Minimum letters of an identifying word that is also found inside longer words; a shorter one is found only as a whole
word.
"""
