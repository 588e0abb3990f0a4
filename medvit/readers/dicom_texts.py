"""Texts in a DICOM file: elements at any depth, and bytes outside all elements."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.dicom.header import load
from medvit.dicom.stream_comments import comments
from medvit.records import FileText

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

MAX_BINARY = 2**16
"""Number of bytes, at the beginning of a binary value, that are searched for text."""
_NUMBERS = ("AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV")
_WORDS = ("OD", "OF", "OL", "OV", "OW")
"""Value representations of numbers that are never searched for text, and of numbers that are searched only in private
elements.
"""


def file_texts(path: Path) -> Iterator[FileText]:
    """Yield every text of a file. A text in a DICOM element is yielded with this element.

    Raises:
        DataError: If the file is damaged, or the places of text in its compressed pixels are unknown;
            readable texts come first.
    """
    dataset = load(path)
    yield from element_texts(dataset)
    for text in texts(getattr(dataset, "preamble", None)):
        yield FileText(text, "the preamble")
    for comment in comments(dataset):
        for text in texts(comment):
            yield FileText(text, "a comment in compressed pixels")


def element_texts(dataset: Dataset) -> Iterator[FileText]:
    """Yield the values of all elements that may contain a text, including nested ones and file meta information."""
    for part in (getattr(dataset, "file_meta", None), dataset):
        if part is not None:
            yield from _of_elements(part)


def _of_elements(dataset: Dataset) -> Iterator[FileText]:
    for element in elements(dataset):
        vr = str(element.VR)
        if vr == "SQ":
            for item in element.value or ():
                yield from _of_elements(item)
        elif vr not in _NUMBERS and element.keyword != "PixelData" and (element.tag.is_private or vr not in _WORDS):
            place = f"{element.tag} {element.keyword or 'private'}"
            yield from (FileText(text, place, vr=vr, tag=int(element.tag)) for text in texts(element.value))


def elements(dataset: Dataset) -> Iterator[DataElement]:
    """Yield the elements that can be decoded, in the order of their tags."""
    for tag in sorted(dataset.keys()):
        element = element_at(dataset, int(tag))
        if element is not None:
            yield element


def element_at(dataset: Dataset, tag: int) -> DataElement | None:
    """Return the element with a tag; None if it is missing, or if its bytes are not a valid value of its VR."""
    try:
        return dataset[tag]
    except Exception:  # whatever pydicom raises on bytes that violate their VR; unreadable values are not kept
        return None


def texts(value: Any) -> list[str]:
    """Return the values of an element as texts; for a binary value, the byte sequences that look like text."""
    if value is None:
        return []
    if isinstance(value, bytes):
        return [run.decode("utf-8", "replace") for run in re.findall(rb"[\x20-\x7e\x80-\xff]{4,}", value[:MAX_BINARY])]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [str(part) for part in value]
    return [str(value)]
