"""Header of a DICOM instance: only the elements that determine its type, patient, series and geometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.dicom.dimensions import DimensionValue, dimension_tags, read_dimensions
from medvit.dicom.direct.fast_dataset import READ_MORE, FastDataset, quick_beginning
from medvit.dicom.direct.fast_values import tag_of
from medvit.dicom.direct_read import DESCRIBING, Native, find_native
from medvit.dicom.element_values import MODALITY, count, numbers, text, texts
from medvit.dicom.file import open_elements, quiet
from medvit.dicom.padding import INTEGER as PADDING
from medvit.files.head import FIRST_BYTES, FileHead

if TYPE_CHECKING:
    from pydicom import Dataset

SLICES: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
}
"""SOP classes whose instances are slices of a volume (PS3.4 B.5), with their modality."""

ENHANCED: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.3": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
}
"""Enhanced CT, MR and PET, which keep their geometry in functional groups (PS3.3 C.7.6.16), with their modality."""

SLICED = frozenset(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("13.1.1", "13.1.2", "13.1.3", "6.2"))
"""X-ray 3D angiographic and craniofacial, breast tomosynthesis, enhanced ultrasound volume: frames are slices, whose
position must be in functional groups (PS3.3 A.53, A.54, A.55, A.59). A single frame may be an image rendered from many
slices.
"""

RADIOGRAPHS = ("CR", "DX", "MG", "IO", "PX", "XA", "RF")
"""Modalities of projection X-ray (PS3.3 C.7.3.1.1.1)."""

STUDY_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate")
"""Elements with the date of a study; the first one that has a value is used."""

_WHAT = ("SOPClassUID", "ImageType", "Modality", "PhotometricInterpretation", "SamplesPerPixel")
_PLACE = ("PixelSpacing", "ImagerPixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
_WHERE = ("Rows", "Columns", "NumberOfFrames", *_PLACE)
_WHOSE = ("SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "StudyInstanceUID")
_ORIGIN = ("InstitutionName", *STUDY_DATES)
_WHICH = ("SeriesInstanceUID", "SeriesDescription", "SOPInstanceUID", "InstanceNumber")
KEYWORDS = (*_WHAT, *_WHERE, *_WHOSE, *_ORIGIN, *_WHICH, *DESCRIBING, *PADDING)
"""Elements read from every header, in addition to `trait_tags()`; skipping the rest makes scanning fast."""


@dataclass(frozen=True)
class Header:
    """Header of an instance or a frame: the values that determine how it is read.

    Identifiers are the original ones in the file, and are never printed.

    `frame` counts from 0 and is None if the instance is a single image. `number` is (0020,0013) InstanceNumber, 0 if
    missing. `traits` are the values that may separate instances at one position (`medvit.dicom.dimensions`).
    `position_mm` (3) and `orientation` (6, the directions of a row and of a column) are in LPS. `spacing_mm` is the row
    spacing, then the column spacing (PS3.3 10.7.1.3). These three are None if the file lacks them or has invalid
    values.
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
    number: int = 0
    traits: tuple[tuple[str, DimensionValue], ...] = field(default=(), repr=False)
    frame: int | None = None
    stack: str = ""
    """(0020,9056) StackID of a frame."""
    in_transducer: bool = False
    """Whether the position is relative to an ultrasound transducer, not to the patient."""
    issuer: str = field(default="", repr=False)
    """(0010,0021) IssuerOfPatientID."""
    imager_spacing_mm: tuple[float, ...] | None = None
    """(0018,1164) ImagerPixelSpacing: pixel spacing at the detector, for projection radiographs."""
    institution: str = field(default="", repr=False)
    """(0008,0080) InstitutionName."""
    study_date: str = field(default="", repr=False)
    """Date of the study, as YYYYMMDD."""
    native: Native | None = field(default=None, repr=False)
    """Location of pixels that can be read without a decoder."""

    @property
    def is_slice(self) -> bool:
        """Whether the plane may be a slice of a volume.

        A slice is gray, is not a localizer, and either has an SOP class of slices or is a frame with a position. A
        secondary image (PS3.3 C.7.6.1.1.2) without a position is not a slice: it may show a report, for example. Frames
        of an SOP class of volumes are always slices.
        """
        if self.samples != 1 or "LOCALIZER" in self.image_type:
            return False
        is_of_frames = self.sop_class in SLICED and self.frames > 1
        is_sliced = self.is_of_slices or is_of_frames
        is_secondary = self.image_type[1:2] == ("SECONDARY",) and not is_of_frames
        if self.position_mm is None and (is_secondary or not is_sliced):
            return False
        return is_sliced or (self.frame is not None and self.has_place)

    @property
    def is_of_slices(self) -> bool:
        """Whether images of the SOP class (or, without a class, of the modality) are slices: CT, MR, PET."""
        if not self.sop_class:
            return self.modality in SLICES.values()
        return self.sop_class in SLICES or self.sop_class in ENHANCED

    @property
    def has_place(self) -> bool:
        """Whether the plane has position, orientation and pixel spacing."""
        return self.position_mm is not None and self.orientation is not None and self.spacing_mm is not None

    @property
    def is_mosaic(self) -> bool:
        """Whether the instance is a Siemens mosaic: many slices tiled into one image."""
        return "MOSAIC" in self.image_type and self.frames <= 1

    @property
    def mpp(self) -> float | None:
        """Microns per pixel, if pixels are square and (0028,0030) PixelSpacing gives their size.

        For a radiograph without PixelSpacing, this is the pixel size of the detector, not corrected for magnification
        (PS3.3 10.7.1.3).
        """
        spacing = self.spacing_mm or (self.imager_spacing_mm if self.modality in RADIOGRAPHS else None)
        if spacing is None or spacing[0] <= 0 or abs(spacing[0] - spacing[1]) > 1e-3 * spacing[0]:
            return None
        return spacing[0] * 1000.0


def load(path: Path, **options: Any) -> Dataset:
    """Read the data set of a file, with or without preamble; `options` are those of `pydicom.dcmread`.

    Raises:
        UnreadableError: If the file does not begin as DICOM or is cut short.
    """
    found = open_elements(path, **options)
    return found.dataset(_tags()) if isinstance(found, FastDataset) else found


def read_elements(path: Path, tags: tuple[int, ...] = (), beginning: FileHead | None = None) -> FastDataset | Dataset:
    """Read the elements that make up the header of a file, and the elements of `tags`, without pixels.

    The file is opened only if `beginning` is not given or does not contain all of these elements.

    Raises:
        UnreadableError: If the file does not begin as DICOM or is cut short.
    """
    wanted = (*_tags(), *tags)
    found = None if beginning is None else quick_beginning(beginning, wanted)
    if found is not None:
        quiet()
        return found
    num_bytes = FIRST_BYTES if beginning is None else READ_MORE * FIRST_BYTES
    return open_elements(path, num_bytes=num_bytes, stop_before_pixels=True, specific_tags=wanted)


def read_header(path: Path) -> Header:
    """Read the header of a file, without its pixels.

    Raises:
        UnreadableError: If the file does not begin as DICOM or is cut short.
    """
    return header_of(read_elements(path), path)


def header_of(dataset: FastDataset | Dataset, path: Path, num_bytes: int | None = None) -> Header:
    """Return the header in a data set; UIDs that are empty there are taken from the file meta information.

    If `num_bytes` is not given, the file size is read from the file system.
    """
    num_bytes = path.stat().st_size if num_bytes is None else num_bytes
    meta = dataset.file_meta
    return Header(
        file=path,
        num_bytes=num_bytes,
        sop_class=str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or ""),
        study=text(dataset, "StudyInstanceUID"),
        series=text(dataset, "SeriesInstanceUID"),
        modality=MODALITY.of(text(dataset, "Modality")),
        image_type=texts(dataset, "ImageType"),
        photometric=text(dataset, "PhotometricInterpretation"),
        rows=count(dataset, "Rows", 0),
        columns=count(dataset, "Columns", 0),
        samples=count(dataset, "SamplesPerPixel", 1),
        frames=count(dataset, "NumberOfFrames", 1),
        bits=count(dataset, "BitsAllocated", 0),
        transfer_syntax=str(meta.get("TransferSyntaxUID") or ""),
        orientation=numbers(dataset, "ImageOrientationPatient", 6),
        spacing_mm=numbers(dataset, "PixelSpacing", 2),
        imager_spacing_mm=numbers(dataset, "ImagerPixelSpacing", 2),
        instance=str(dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or ""),
        patient=text(dataset, "PatientID") or text(dataset, "PatientName"),
        issuer=text(dataset, "IssuerOfPatientID") if text(dataset, "PatientID") else "",
        institution=text(dataset, "InstitutionName"),
        study_date=next(filter(None, (text(dataset, keyword) for keyword in STUDY_DATES)), ""),
        description=text(dataset, "SeriesDescription"),
        position_mm=numbers(dataset, "ImagePositionPatient", 3),
        number=count(dataset, "InstanceNumber", 0),
        traits=tuple(read_dimensions(dataset).items()),
        native=find_native(dataset, num_bytes) if isinstance(dataset, FastDataset) else None,
    )


@cache
def _tags() -> tuple[int, ...]:
    return tuple(sorted({*map(tag_of, KEYWORDS), *dimension_tags()}))
