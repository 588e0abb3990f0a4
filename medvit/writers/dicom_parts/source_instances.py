"""DICOM instances that a result refers to: their headers, completed as the standard requires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvit.dicom.element_values import derived_uid
from medvit.dicom.header import load
from medvit.errors import UnreadableError, UnsupportedError
from medvit.files.guard import decoding
from medvit.geometry import Affine
from medvit.readers.dicom import source_affine
from medvit.records import Item
from medvit.series.frames import PER_FRAME, SHARED
from medvit.writers.dicom_parts.character_sets import settle

if TYPE_CHECKING:
    from pydicom import Dataset

EMPTY_ALLOWED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""Attributes of type 2: they must be present and may be empty (DICOM PS3.3 C.7.1.1, C.7.2.1)."""
COPIED_TAGS = (0x0008_0020, 0x0008_0030, 0x0008_0050, 0x0008_0090, 0x0008_1030, 0x0020_0010)
"""Tags to copy in addition to those of the patient.

They are study date and time, accession number, referring physician, study description and study ID.
"""
IDENTITY_TAGS = (0x0010_0010, 0x0010_0020)
METHODS = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
MADE_UP = {"StudyInstanceUID": "study", "SeriesInstanceUID": "series", "FrameOfReferenceUID": "frame of reference"}


@dataclass(frozen=True)
class Sources:
    """Headers of a series to which a result can refer, one per file, in the order of the files.

    `affine` maps (column, row, slice) to RAS+ mm; it is None for a 2D image. `made_up` names the identifiers that the
    files lack. If the source is one multi-frame instance, its header is reduced to the frames of the volume, in the
    order of the volume. `frames` are the numbers of these frames in the file, from 0. `notes` are for readers of the
    result.
    """

    headers: tuple[Dataset, ...] = field(repr=False)
    affine: Affine | None = None
    made_up: tuple[str, ...] = ()
    frames: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def read_sources(item: Item) -> Sources:
    """Return the headers of a series without pixels.

    The first header, from which results copy patient and study, is completed with the elements that a referring object
    requires. Empty identifiers are taken from the file meta information, or else derived from the identifiers that
    exist, with the same result at every call. No value that a viewer would show is made up.

    Raises:
        UnreadableError: If a header cannot be read or lacks the identifiers of its instance.
        UnsupportedError: If no DICOM object can refer to the planes: tiles of a mosaic, frames of a cine, frames of
            several instances, slices of several frames of reference; or if the patient's name cannot be decoded.
    """
    with decoding("a DICOM header of the source"):
        headers = [load(path, stop_before_pixels=True) for path in item.files]
        frames = tuple(frame for _, frame in item.frames)
        if frames:
            _check_frames(headers)
            _keep_frames(headers[0], frames)
        for header in headers:
            _complete_uids(header)
        note = settle(headers[0])
        _complete(headers[0])
        affine = source_affine(item) if item.kind == "volume" else None
        if affine is not None:
            _check_one(headers)
            _align(headers)
        first = headers[0]
        made_up = {keyword: derived_uid(keyword, first) for keyword in MADE_UP if _lacks(first, keyword)}
        if not has_position(first):  # a frame of reference without positions, as of a projection, has no meaning
            made_up.pop("FrameOfReferenceUID", None)
        for header in headers:
            header.update(_elements(made_up))
            if not has_position(first):
                header.pop("FrameOfReferenceUID", None)
    return Sources(
        tuple(headers), affine, tuple(MADE_UP[keyword] for keyword in made_up), frames, (note,) if note else ()
    )


def _check_frames(headers: Sequence[Dataset]) -> None:
    if len(headers) > 1:
        raise UnsupportedError(
            f"the slices are frames of {len(headers)} instances; a segmentation can refer to only one multi-frame "
            "instance"
        )
    if PER_FRAME not in headers[0]:
        raise UnsupportedError("the slices are not frames with functional groups, which a segmentation requires")


def _align(headers: Sequence[Dataset]) -> None:
    """Give all slices the orientation of the first slice.

    Orientations may differ within the tolerance of `series.volume`.
    """
    if PER_FRAME in headers[0]:
        _share(headers[0], "PlaneOrientationSequence")
        _share(headers[0], "PixelMeasuresSequence")
        return
    for header in headers[1:]:
        header.ImageOrientationPatient = headers[0].ImageOrientationPatient


def _share(header: Dataset, keyword: str) -> None:
    """Move a functional group from the per-frame to the shared groups, where libraries look for it."""
    groups = header[PER_FRAME].value
    if keyword not in groups[0]:
        return
    if not header.get(SHARED):
        header.update(_elements({SHARED: [_elements({})]}))
    if keyword not in header[SHARED].value[0]:
        header[SHARED].value[0][keyword] = groups[0][keyword]


def _check_one(headers: Sequence[Dataset]) -> None:
    """Check that all headers belong to one study, series and frame of reference, as a DICOM object requires."""
    for keyword, what in MADE_UP.items():
        num_found = len({str(header.get(keyword) or "") for header in headers})
        if num_found > 1:
            raise UnsupportedError(
                f"the slices have {num_found} different values of {keyword}; a DICOM object can belong to only one "
                f"{what}"
            )


def _keep_frames(header: Dataset, frames: Sequence[int]) -> None:
    from pydicom import Sequence as Items

    groups = header.PerFrameFunctionalGroupsSequence
    header.PerFrameFunctionalGroupsSequence = Items([groups[frame] for frame in frames])
    header.NumberOfFrames = len(frames)


def _complete_uids(header: Dataset) -> None:
    meta = header.file_meta
    for keyword, meta_keyword in (
        ("SOPClassUID", "MediaStorageSOPClassUID"),
        ("SOPInstanceUID", "MediaStorageSOPInstanceUID"),
    ):
        if _lacks(header, keyword):
            if _lacks(meta, meta_keyword):
                raise UnreadableError(
                    f"a file of the series has no {keyword}, neither in its data set nor in its meta header"
                )
            setattr(header, keyword, meta[meta_keyword].value)


def _complete(header: Dataset) -> None:
    _modernize(header)
    _drop_invalid(header)
    for keyword in EMPTY_ALLOWED:
        if keyword not in header:
            setattr(header, keyword, "")
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = ""
    if header.get("PatientIdentityRemoved") == "YES" and not any(keyword in header for keyword in METHODS):
        header.DeidentificationMethod = "not stated by the source"


def _modernize(header: Dataset) -> None:
    """Convert dates and times in ACR-NEMA form, such as 1997.04.24 and 10:52:34, to DICOM form (PS3.5 sec. 6.2)."""
    for keyword, separator in (("StudyDate", "."), ("PatientBirthDate", "."), ("StudyTime", ":")):
        if keyword in header:
            setattr(header, keyword, str(header[keyword].value or "").replace(separator, ""))


def _drop_invalid(header: Dataset) -> None:
    """Remove copied values that violate their value representation.

    Name and ID are always kept, because a result must not lose its patient.
    """
    from pydicom.config import RAISE
    from pydicom.valuerep import validate_value

    copied = [tag for tag in header.keys() if tag.group == 0x0010 or tag in COPIED_TAGS]  # noqa: SIM118 (raw tags)
    for tag in [tag for tag in copied if tag not in IDENTITY_TAGS]:
        try:
            element = header[tag]
            values = element.value if element.VM > 1 else [element.value]
            for value in values if element.VR not in ("SQ", "UI") else []:
                validate_value(element.VR, value, RAISE)
        except (ValueError, TypeError, NotImplementedError, OverflowError):
            del header[tag]


def _elements(values: dict[str, Any]) -> Dataset:
    from pydicom import Dataset

    elements = Dataset()
    for keyword, value in values.items():
        setattr(elements, keyword, value)
    return elements


def has_position(header: Dataset) -> bool:
    """Return whether a header has the position of its image or of its frames."""
    return any(keyword in header for keyword in ("ImageOrientationPatient", "ImageOrientationSlide", PER_FRAME))


def _lacks(header: Dataset, keyword: str) -> bool:
    return not header.get(keyword)
