"""The header of a DICOM instance: only the elements that decide what it is, whose it is and where it lies."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.errors import NotAnImageError, UnreadableError, UnsupportedError
from medvit.readers.limits import check_compressed, check_stored

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE_BYTES = 128

FIRST_VRS = (b"UL", b"UI", b"OB", b"SH", b"CS", b"DA", b"TM")
"""Value representations that open a data set without preamble: those of groups 0002 and 0008 (PS3.6)."""

DERIVED: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "label map segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "parametric map",
    "1.2.840.10008.5.1.4.1.1.481.2": "radiotherapy dose",
}
"""SOP classes with pixels that were computed from images (PS3.4 B.5)."""

SLICES: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
}
"""SOP classes whose instances are slices of a volume (PS3.4 B.5), with their modality."""

ENHANCED = (
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.4.3",
    "1.2.840.10008.5.1.4.1.1.4.4",
    "1.2.840.10008.5.1.4.1.1.128.1",
    "1.2.840.10008.5.1.4.1.1.130",
)
"""Enhanced CT, MR and PET, which keep their geometry in functional groups (PS3.3 C.7.6.16)."""

DIRECTORY = "1.2.840.10008.1.3.10"
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"

_WHAT = ("SOPClassUID", "ImageType", "Modality", "SeriesDescription", "PhotometricInterpretation", "SamplesPerPixel")
_WHOSE = ("SpecificCharacterSet", "PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_WHERE = ("Rows", "Columns", "NumberOfFrames", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")

KEYWORDS = (*_WHAT, *_WHOSE, *_WHERE, "BitsAllocated")
"""All that is read of a header; skipping the rest is what makes finding quick."""


@dataclass(frozen=True)
class Header:
    """What decides how an instance is taken. Identifiers are those of the file: never printed.

    `position_mm` (3) and `orientation` (6, the directions of a row and of a column) are LPS; `spacing_mm` is that
    of rows, then of columns (PS3.3 10.7.1.3). They are none where the file lacks them or holds no such numbers.
    """

    file: Path = field(repr=False)
    num_bytes: int
    sop_class: str
    instance: str = field(repr=False)
    patient: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    description: str = field(repr=False)
    modality: str
    image_type: tuple[str, ...]
    photometric: str
    rows: int
    columns: int
    samples: int
    frames: int
    bits: int
    transfer_syntax: str
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, ...] | None

    @property
    def is_slice(self) -> bool:
        """Whether it may be one slice of a volume: CT, MR or PET, gray, not a localizer."""
        is_of_class = self.sop_class in SLICES if self.sop_class else self.modality in SLICES.values()
        return is_of_class and self.samples == 1 and "LOCALIZER" not in self.image_type

    @property
    def mpp(self) -> float | None:
        """Microns per pixel, where pixels are square and (0028,0030) PixelSpacing says their size."""
        if self.spacing_mm is None or abs(self.spacing_mm[0] - self.spacing_mm[1]) > 1e-3 * self.spacing_mm[0]:
            return None
        return self.spacing_mm[0] * 1000.0


def begins_as_dicom(head: bytes) -> bool:
    """Whether a file begins as DICOM: the prefix after the preamble, or an element of group 0002 or 0008 at once."""
    if head[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == b"DICM":
        return True
    is_first_group = head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\0"
    is_explicit, is_implicit = head[4:6] in FIRST_VRS, head[5:8] == b"\0\0\0"
    return is_first_group and (is_explicit or is_implicit)


def load(path: Path, **options: Any) -> Dataset:
    """The data set in a file, also without preamble; `options` are those of `pydicom.dcmread`.

    Raises:
        UnreadableError: If the file does not begin as DICOM or is cut short.
    """
    import pydicom

    from medvit.readers.dicom_elements import quick

    _quiet()
    with path.open("rb") as stream:
        if not begins_as_dicom(stream.read(PREAMBLE_BYTES + 4)):
            raise UnreadableError("named as DICOM, but its first bytes are not; it is damaged or another format")
        stream.seek(0)
        with_pixels = not options.get("stop_before_pixels", False)
        found = quick(stream, tags=options.get("specific_tags"), with_pixels=with_pixels, decoded=_tags())
        if found is not None:
            return found
        stream.seek(0)
        dataset = pydicom.dcmread(stream, force=True, **options)
    # Where a file ends within an element, pydicom drops every element it has read.
    if len(dataset) == 0 and dataset.file_meta.get("MediaStorageSOPClassUID") != DIRECTORY:
        raise UnreadableError("no element can be read, though the file begins as DICOM; it is cut short")
    return dataset


def read_header(path: Path) -> Header:
    """The header of a file, without its pixels.

    Raises:
        UnreadableError: If the file does not begin as DICOM or is cut short.
    """
    return header_of(load(path, stop_before_pixels=True, specific_tags=_tags()), path)


def header_of(dataset: Dataset, path: Path) -> Header:
    """The header in a data set; UIDs that are empty there are taken from the file meta information."""
    meta = dataset.file_meta
    syntax = str(meta.get("TransferSyntaxUID") or "")
    return Header(
        file=path,
        num_bytes=path.stat().st_size,
        sop_class=str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or ""),
        instance=str(dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or ""),
        patient=_text(dataset, "PatientID") or _text(dataset, "PatientName"),
        study=_text(dataset, "StudyInstanceUID"),
        series=_text(dataset, "SeriesInstanceUID"),
        description=_text(dataset, "SeriesDescription"),
        modality=_text(dataset, "Modality").upper(),
        image_type=_texts(dataset, "ImageType"),
        photometric=_text(dataset, "PhotometricInterpretation"),
        rows=int(dataset.get("Rows") or 0),
        columns=int(dataset.get("Columns") or 0),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        frames=int(dataset.get("NumberOfFrames") or 1),
        bits=int(dataset.get("BitsAllocated") or 0),
        transfer_syntax=syntax,
        position_mm=_numbers(dataset, "ImagePositionPatient", 3),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        spacing_mm=_numbers(dataset, "PixelSpacing", 2),
    )


def check(header: Header) -> None:
    """Passes single-frame images.

    Raises:
        NotAnImageError: If the instance has no pixels, or was computed from images.
        UnsupportedError: If it holds many frames, tiles or slices.
        UnreadableError: If it claims more pixels than its file can hold.
    """
    if header.sop_class in DERIVED:
        raise NotAnImageError(f"a DICOM {DERIVED[header.sop_class]}, derived from images; give those images instead")
    if not header.rows or not header.columns:
        raise NotAnImageError(f"{_class_name(header)}, which holds no pixels")
    if header.sop_class == WHOLE_SLIDE:
        raise UnsupportedError(f"a DICOM whole slide of {header.frames} tiles; expected images of one frame")
    if header.frames > 1:
        raise UnsupportedError(f"{header.frames} frames in one DICOM instance; expected one: split them")
    if header.sop_class in ENHANCED:
        raise UnsupportedError("an enhanced DICOM object; expected the classic kind, one slice an instance: convert it")
    if "MOSAIC" in header.image_type:
        raise UnsupportedError("a Siemens mosaic, many slices tiled into one image; convert to one slice an instance")
    _check_size(header)


def _check_size(header: Header) -> None:
    from pydicom.uid import UID

    samples = 2 if header.photometric == "YBR_FULL_422" else header.samples
    claimed = header.rows * header.columns * samples * header.bits // 8
    syntax = UID(header.transfer_syntax)
    if syntax.is_transfer_syntax and (syntax.is_compressed or syntax.is_deflated):
        check_compressed(claimed, header.file)
    else:
        check_stored(claimed, header.file)


def _class_name(header: Header) -> str:
    from pydicom.uid import UID_dictionary

    known = UID_dictionary.get(header.sop_class)
    return f"a DICOM object of the class {known[0]}" if known else "a DICOM object"


@cache
def _quiet() -> None:
    # Its warnings quote the values they complain of, names among them.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@cache
def _tags() -> list[int]:
    from pydicom.datadict import tag_for_keyword

    return [tag for keyword in KEYWORDS if (tag := tag_for_keyword(keyword)) is not None]


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def _texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    value = dataset.get(keyword) or ()
    return (value.strip(),) if isinstance(value, str) else tuple(str(part).strip() for part in value)


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(value) for value in dataset.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    return values if len(values) == count else None
