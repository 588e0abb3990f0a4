"""Laterality and centering of an ophthalmic DICOM image, from the elements of its header; nothing is guessed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvit.dicom.header import load
from medvit.errors import MedvitError
from medvit.files.guard import decoding
from medvit.readers.heyex import READER as HEYEX
from medvit.records import Item

if TYPE_CHECKING:
    from pydicom import Dataset

PHOTOGRAPH, TOMOGRAPHY = "OP", "OPT"
MODALITIES = (PHOTOGRAPH, TOMOGRAPHY)
"""Ophthalmic photography and tomography (PS3.3 C.7.3.1.1.1)."""

SIDES: Mapping[str, str] = {"R": "right", "L": "left", "B": "both"}
"""Values of (0020,0062) ImageLaterality and similar elements (PS3.3 C.8.17.5)."""
ELEMENTS: Mapping[str, str] = {
    "ImageLaterality": "(0020,0062) ImageLaterality",
    "Laterality": "(0020,0060) Laterality",
    "FrameLaterality": "(0020,9072) FrameLaterality",
}
VIEWS: Mapping[str, str] = {
    "111900": "macula",
    "111901": "disc",
    "111902": "lesion",
    "111903": "disc-macula",
    "408734008": "disc",
    "410434001": "macula",
}
"""Codes of (0022,001D) RelativeImagePositionCodeSequence (PS3.16 CID 4207): DCM terms, and fields 1 and 2 of the
Diabetic Retinopathy Study, which are centered on the disc and on the macula."""

GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_READ = (*ELEMENTS, "RelativeImagePositionCodeSequence", *GROUPS)


@dataclass(frozen=True)
class StatedEye:
    """Header values that describe the eye shown in an image.

    `sides` maps each element of `ELEMENTS` (for a vendor's file, its header) to the values found in the files of the
    image: right, left or both. `view` is the center of the image: macula, disc, disc-macula or lesion; it is empty if
    the header has no code.
    """

    sides: Mapping[str, frozenset[str]]
    view: str = ""


def stated_eye(item: Item) -> StatedEye:
    """Return the eye values in the headers of an image; each header is read once.

    If a file contains several images, only the values for the frames of this image are returned. A file that cannot be
    opened yields no values here; the error is raised when its pixels are read.
    """
    if item.reader == HEYEX.name:
        return StatedEye({"its header": frozenset(head.side for head in item.headers if head.side)})
    sides: dict[str, set[str]] = {}
    views: list[str] = []
    for number, dataset in enumerate(_headers(item)):
        frames = {frame for file, frame in item.frames if file == number}
        for element, value in _sides(dataset, frames):
            sides.setdefault(element, set()).add(value)
        codes = dataset.get("RelativeImagePositionCodeSequence") or ()
        views += [VIEWS.get(str(code.get("CodeValue") or "").strip(), "") for code in codes]
    return StatedEye({element: frozenset(values) for element, values in sides.items()}, views[0] if views else "")


def _headers(item: Item) -> Iterator[Dataset]:
    if item.reader != "dicom":
        return
    from pydicom.datadict import tag_for_keyword

    for file in item.files:
        try:
            with decoding("the DICOM header"):
                yield load(file, stop_before_pixels=True, specific_tags=tuple(map(tag_for_keyword, _READ)))
        except MedvitError:
            continue


def _sides(dataset: Dataset, frames: set[int]) -> Iterator[tuple[str, str]]:
    shared, each = (list(dataset.get(keyword) or ()) for keyword in GROUPS)
    own = [group for number, group in enumerate(each) if number in frames or not frames]
    places = [dataset, *(anatomy for group in (*shared, *own) for anatomy in group.get("FrameAnatomySequence") or ())]
    for place in places:
        for keyword, element in ELEMENTS.items():
            value = SIDES.get(str(place.get(keyword) or "").strip().upper())
            if value is not None:
                yield element, value
