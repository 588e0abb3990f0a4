"""The values in a DICOM data set that may identify someone: what the profile does not keep, at any depth.

The same values serve twice: to keep them out of the texts that stay in a de-identified copy, and to look for them in
what a dataset, its logs and the tracker hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvit.deidentification.profile import CLEANED, DATES, NUMBERS, STANDARD_ROOT, TEXT, Action, Profile
from medvit.deidentification.vocabulary import is_common, words_of

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset


from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset


STRICT = Profile(frozenset())
"""The basic profile without any option: whatever it takes away is called identifying."""

MIN_WORD, MIN_NUMBER = 3, 4
"""Shorter words and numbers are not looked for: they are everywhere."""
MAX_BINARY = 2**16
"""Bytes of a binary value that are searched for text."""

KEPT = (Action.KEEP, Action.CODE)
_TELLING_META = ("MediaStorageSOPInstanceUID", "SourceApplicationEntityTitle", "PrivateInformation")


@dataclass(frozen=True)
class IdentifyingValue:
    """One value of an element that the profile does not keep; `element` is its tag and keyword."""

    text: str = field(repr=False)
    element: str
    vr: str
    is_descriptor: bool


def values(dataset: Dataset, profile: Profile = STRICT) -> Iterator[IdentifyingValue]:
    """All values of a data set that a profile does not keep, nested ones and file meta information included."""
    for part in (getattr(dataset, "file_meta", None), dataset):
        if part is not None:
            yield from _values(part, profile)


def forbidden_words(dataset: Dataset, profile: Profile) -> frozenset[str]:
    """The words, in lower case, that may stay in no text of the data set: names, identifiers, institutions."""
    found: set[str] = set()
    for value in values(dataset, profile):
        if value.vr in DATES or value.vr in ("UI", "UN", "OB", "OW") or value.is_descriptor:
            continue
        words = filter(is_telling, words_of(value.text))
        found |= {word for word in words if value.vr == "PN" or not is_common(word)}
    return frozenset(found)


def elements(dataset: Dataset) -> Iterator[DataElement]:
    """The elements that can be read, in the order of their tags."""
    for tag in sorted(dataset.keys()):
        element = element_at(dataset, int(tag))
        if element is not None:
            yield element


def element_at(dataset: Dataset, tag: int) -> DataElement | None:
    """The element of a tag, or none if its bytes do not make a value of its VR."""
    try:
        return dataset[tag]
    except Exception:  # whatever pydicom raises on bytes that break their VR; what cannot be read is not kept
        return None


def texts(value: Any) -> list[str]:
    """The values of an element as texts; of a binary value the runs of it that look like text."""
    if value is None:
        return []
    if isinstance(value, bytes):
        return [run.decode("utf-8", "replace") for run in re.findall(rb"[\x20-\x7e\x80-\xff]{4,}", value[:MAX_BINARY])]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [str(part) for part in value]
    return [str(value)]


def is_telling(word: str) -> bool:
    """Whether a word or number is long enough to tell someone from others."""
    if word.isdigit():
        return len(word.lstrip("0")) >= MIN_NUMBER
    return len(word) >= (MIN_WORD if word.isascii() else 2)


def _values(dataset: Dataset, profile: Profile) -> Iterator[IdentifyingValue]:
    for element in elements(dataset):
        vr = str(element.VR)
        if vr == "SQ":
            for item in element.value or ():
                yield from _values(item, profile)
        elif _identifies(element, vr, profile):
            name = f"{element.tag} {element.keyword or 'private'}"
            is_descriptor = element.keyword in CLEANED["descriptors"]
            yield from (
                IdentifyingValue(text, name, vr, is_descriptor) for text in texts(element.value) if text.strip()
            )


def _identifies(element: DataElement, vr: str, profile: Profile) -> bool:
    tag = int(element.tag)
    if element.tag.is_private:
        return not element.tag.is_private_creator and vr not in NUMBERS
    if tag >> 16 == 2:
        return element.keyword in _TELLING_META
    if vr == "UI" and all(text.startswith(STANDARD_ROOT) for text in texts(element.value)):
        return False
    if vr in TEXT or vr in DATES or vr in ("UI", "UN", "OB", "IS", "DS"):
        action = profile.action(tag, vr)
        return action not in KEPT and not (vr == "TM" and action is Action.SHIFT)  # times of day stay
    return False


FILE, SPLIT, PATIENT = "file", "split", "patient"

_PERSONAL = re.compile(
    r".*name.*|(patient|person|case|study|accession|medical_record)[ _]?(id|number|nr|no)?|mrn|ssn|.*birth.*|dob|"
    r".*date.*|address|phone|e?-?mail|comments?|notes?",
    re.IGNORECASE,
)


def is_personal(column: str) -> bool:
    """Whether the name of a column says that its cells identify patients or name their files."""
    return column in (PATIENT, FILE) or _PERSONAL.fullmatch(column) is not None


MIN_SUBSTRING = 5
"""A shorter word counts only as a whole word, a longer one wherever it stands."""
