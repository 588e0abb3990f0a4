"""Records of an image on its way from the source to the manifest: frozen dataclasses, never dicts.

Four records follow an image through ingest: a reader finds an `Item`; a `Candidate` is an item with its patient,
labels and split; a `Taken` describes its stored data; a `Row` is its row in the manifest. Items and candidates
contain identifiers, names and paths; rows contain only pseudonyms.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self, get_args

Kind = Literal["image", "volume", "slide"]

Split = Literal["train", "val", "calibration", "test"]
"""Use of an image. train: training. val: selection of weights and thresholds. calibration: calibration of predicted
probabilities, and nothing else. test: evaluation.
"""

Values = Literal["stored", "displayed", "SUVbw", "mapped", "unmapped"]
"""Requested values of an image. stored: as in the file, with their unit. displayed: as the file displays them. SUVbw:
PET uptake. mapped: the values of the real-world value mapping with a given label. unmapped: as in the file, without any
mapping.
"""

Padding = tuple[float, float]
"""Bounds, both included, of the stored padding values (pixels without a measurement)."""

NiftiForm = Literal["sform", "qform"]
AnatomicalAxes = Literal["LPS", "RAS"]

OfFundus = Literal["not_fundus", "blurred", "underexposed", "overexposed", "cut_field"]

OfPixels = Literal["constant", "not_finite", "blank", "low_contrast", "clipped", "inverted", "padded"]

Flag = Literal[OfPixels, "tiny", "spacing", OfFundus]
"""Fault of an image (`medvit.ingest.quality_flags`) or of a fundus photograph (`medvit.ingest.fundus_quality`)."""


IGNORED = 255
"""Value of label-map pixels that every loss and metric ignores. If there are more than 255 classes, it is an ordinary
class number.
"""


CHANNELS, CHANNEL_SEPARATOR = "channels", "+"
"""Key of `Row.attributes` for the names of the channels of an image, and the character between two names."""


@dataclass(frozen=True)
class Identity:
    """Identifiers of an image, as its file states them. They are never printed or stored, only turned into pseudonyms.

    `patient`, `study` and `series` are the original identifiers, empty if the file has none. `issuer` is the issuer of
    the patient identifier (DICOM IssuerOfPatientID), since two hospitals may assign the same identifier to two
    patients.
    """

    patient: str = field(default="", repr=False)
    study: str = field(default="", repr=False)
    series: str = field(default="", repr=False)
    issuer: str = field(default="", repr=False)
    institution: str = field(default="", repr=False)
    """Name of the institution (DICOM InstitutionName, or the site in the path)."""
    study_date: str = field(default="", repr=False)
    """Date of the study, as YYYYMMDD."""


class Owned(Protocol):
    """Interface of objects with patient and study identifiers, such as an `Identity` or the header of a file."""

    @property
    def patient(self) -> str:
        """Identifier of the patient."""
        ...

    @property
    def issuer(self) -> str:
        """Issuer of the patient identifier."""
        ...

    @property
    def study(self) -> str:
        """Identifier of the study."""
        ...


def patients_of(found: Iterable[Owned]) -> list[str]:
    """Return the patient of each object: its identifier, or `ID^^^ISSUER` if several issuers assigned it.

    An object without an issuer gets the issuer that its study uses for the same patient identifier, if there is
    exactly one; otherwise it counts as a separate patient. Letter case and spaces of issuers are ignored. The form
    `ID^^^ISSUER` is that of HL7 v2 (data type CX).
    """
    everything = [(one, " ".join(one.issuer.split()).casefold()) for one in found]
    if len({issuer for _, issuer in everything} - {""}) < 2:
        return [one.patient for one, _ in everything]
    by_patient: dict[str, set[str]] = defaultdict(set)
    by_study: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one, issuer in everything:
        if issuer and one.patient:
            by_patient[one.patient].add(issuer)
            by_study[one.study, one.patient].add(issuer)
    patients = []
    for one, issuer in everything:
        beside = by_study.get((one.study, one.patient), set())
        issuer = issuer or (next(iter(beside)) if len(beside) == 1 else "")
        is_unique = len(by_patient.get(one.patient, ())) < 2
        patients.append(one.patient if is_unique or not issuer else f"{one.patient}^^^{issuer}")
    return patients


@dataclass(frozen=True)
class Item:
    """Image that a reader found, with all that is needed to read it later, in another process.

    `description` (DICOM SeriesDescription) is used to choose a series; it is free text and is never stored.

    >>> import medvit
    >>> for item in medvit.find("new-studies"):  # the other study lacks a slice: refused, with a warning
    ...     print(item.reader, item.kind, item.modality, len(item.files))
    dicom volume CT 16
    """

    reader: str
    files: tuple[Path, ...]
    kind: Kind
    modality: str = ""
    index: int | None = None
    """Index of the image in a file of many images."""
    frames: tuple[tuple[int, int], ...] = ()
    """(number in `files`, frame) of each slice in order, for multi-frame files; empty: one slice per file."""
    part: str = ""
    """Name of the part of a series that this image is, such as `echo time 30 ms`; never free text from the file."""
    is_resampled: bool = False
    """Whether the slices do not form a regular grid, so that reading resamples them to one."""
    nifti_form: NiftiForm | None = None
    """Form of a NIfTI to use where sform and qform contradict each other."""
    assumed_axes: AnatomicalAxes | None = None
    """Anatomical axes to assume for a file that names none."""
    values: Values = "stored"
    """Requested pixel values, such as stored values or SUV; applied if the file allows it."""
    mapping: str = ""
    """Label of the requested real-world value mapping, where `values` is mapped."""
    identity: Identity = field(default_factory=Identity)
    description: str = field(default="", repr=False)
    split: Split | None = None
    """Official split, where the data have one."""
    labels: Mapping[str, str] = field(default_factory=dict)
    mask: Path | None = None
    """Label map on the grid of the image."""
    field_of_view: Path | None = None
    """File that is 0 outside the field of view, on the grid of the image; pixels outside are ignored in its label map.
    """
    channels: tuple[tuple[str, Item], ...] = ()
    """Name and image of each channel, if several images form one image (`medvit.readers.channels`)."""
    headers: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    """Facts that the reader has already found about each file, which need not be found again when the image is read."""

    @property
    def parts(self) -> tuple[Item, ...]:
        """Images that form this image as its channels; otherwise, the image itself."""
        return tuple(item for _, item in self.channels) or (self,)


@dataclass(frozen=True)
class Extent:
    """Size of an image according to its header, without reading the pixels.

    `shape` is (H, W), or (R, A, S) for a volume, whose `spacing_mm` is in the same order. `bits` is the number of bits
    per sample.
    """

    shape: tuple[int, ...]
    channels: int = 1
    bits: int | None = None
    spacing_mm: tuple[float, float, float] | None = None
    mpp: float | None = None
    """Microns per pixel, of images that have a physical scale but no position."""


TextKind = Literal["note", "name", "date"]
"""Kind of a text in a file: free text, a name or identifier, or a date (as YYYYMMDD)."""


@dataclass(frozen=True)
class FileText:
    """Text that a file contains in addition to its pixels.

    `place` names where the text is stored, in terms of the file format, such as a DICOM element. It never repeats
    content.
    """

    text: str = field(repr=False)
    place: str
    kind: TextKind = "note"
    vr: str = ""
    """Value representation of a DICOM element."""
    tag: int | None = None
    """Tag of a DICOM element, by which a de-identification profile decides on the text."""


@dataclass(frozen=True)
class Refusal:
    """Refused files and the reason for the refusal; `reason` names neither a patient nor a path."""

    files: tuple[Path, ...]
    code: str
    reason: str


@dataclass(frozen=True)
class Row:
    """Row of a manifest: one image, volume or slide. All identifiers are pseudonyms.

    The real intensity is `slope` * stored value + `intercept`, in `unit` ("HU"; "" if unknown).
    """

    image_id: str
    patient_id: str
    study_id: str
    series_id: str
    modality: str
    kind: Kind
    dataset: str
    split: Split
    shape: tuple[int, ...]
    """Channels and spatial axes, (C, *S)."""
    dtype: str
    sha256: str
    """Content address of the pixels in the store; for a slide, of its low-power image there."""
    labels: Mapping[str, str] = field(default_factory=dict)
    mask: str | None = None
    """Content address of the label map (*S) in the store."""
    spacing_mm: tuple[float, float, float] | None = None
    affine: tuple[float, ...] | None = None
    """Voxel to world, RAS+ mm, 16 entries in row-major order."""
    mpp: float | None = None
    """Microns per pixel, for images with a physical scale but no position."""
    slope: float = 1.0
    intercept: float = 0.0
    unit: str = ""
    part: str = ""
    """Name of the part of a series that this image is, such as `echo time 30 ms`."""
    flags: tuple[Flag, ...] | None = None
    """Suspected faults of the image; None if not checked, as in older datasets."""
    perceptual_hash: str | None = None
    """Hash of `medvit.leakage.perceptual_hash`; empty for an image without structure, None if it was not computed."""
    file_sha256: str | None = None
    """Hash of the single file of an image; None for DICOM, where a hash could confirm identifiers."""
    padding: Padding | None = None
    """Stored padding values (pixels without a measurement), where the file declares any."""
    fallback: str = ""
    """Option such as `values.pet=SUVbw` that the file did not allow; the values are then those stored in the file."""
    num_not_finite: int | None = None
    """Number of NaN or infinite pixels over all channels; None if zero, or not counted."""
    patient_is_assumed: bool | None = None
    """Whether the patient is assumed (`Patient.is_assumed`); None in older datasets, which do not record it."""
    patient_any_issuer: str = ""
    """Pseudonym of the PatientID without its issuer. Set only if several issuers assigned this PatientID; `patient_id`
    is then specific to one issuer.
    """
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Acquisition and subject attributes, with the keys of `medvit.dicom.acquisition`, `medvit.ingest.laterality` and
    `medvit.ingest.fundus_quality`, and the names of the channels. They do not identify a patient.
    """
    annotated: tuple[str, ...] | None = None
    """Foreground classes that are annotated in the label map, if it lacks some (partial labels); None: all classes."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in stored order; empty if the channels have no names, as in a color image."""
        names = self.attributes.get(CHANNELS, "")
        return tuple(names.split(CHANNEL_SEPARATOR)) if names else ()

    @property
    def patient_in_any_source(self) -> str:
        """Pseudonym derived from the PatientID alone.

        It is equal in all sources with the same PatientID, whatever its issuer.
        """
        return self.patient_any_issuer or self.patient_id

    def __str__(self) -> str:
        return f"{self.kind} {self.image_id}"


@dataclass(frozen=True)
class TileRow(Row):
    """Tile of a slide, as a row of kind image: a region that is read from the slide's file on demand.

    `mpp` and `shape` describe the tile; all other attributes are those of the slide.
    """

    slide: Row | None = None
    x: int = 0
    """x of the upper left corner, in pixels of level 0 of the slide."""
    y: int = 0
    """y of the upper left corner, downward."""


def splits_of(rows: Iterable[Row]) -> tuple[Split, ...]:
    """Return the splits in their order; `calibration`, which is optional, only if a row is in it."""
    has_calibration = any(row.split == "calibration" for row in rows)
    return tuple(split for split in get_args(Split) if split != "calibration" or has_calibration)


SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Common names of the three splits, in folders and tables."""


def frame_part(number: int, num_frames: int) -> str:
    """Return the part name of a frame that is a separate image, counted from 0, such as `frame 3 of 10`."""
    return f"frame {number + 1} of {num_frames}"


def is_frame(part: str) -> bool:
    """Return whether a part name denotes one frame of a file (without a spatial position)."""
    return re.fullmatch(r"frame \d+ of \d+", part) is not None


def place_in_file(item: Item) -> str:
    """Return the position of an image in a file of many images, such as `#test/7`; empty for a single-image file."""
    return "" if item.index is None else f"#{item.split or ''}/{item.index}"


@dataclass(frozen=True)
class Patient:
    """Patient of an image, with the identifier that the source uses.

    `is_known_elsewhere`: the identifier denotes the same person in other datasets of the site, as a DICOM PatientID
    does, but a file name does not. `is_assumed`: the files do not name a patient, so each image, series or study counts
    as one patient, and two of these patients may be the same person.
    """

    id: str = field(repr=False)
    is_known_elsewhere: bool = False
    is_assumed: bool = False


@dataclass(frozen=True)
class Candidate:
    """Image found in the source, before its pixels are read.

    `paths` are relative to the source, one per file of the item. `split` is the official split of the source until
    ingest assigns the final one.
    """

    item: Item = field(repr=False)
    paths: tuple[str, ...] = field(repr=False)
    patient: Patient
    labels: Mapping[str, str] = field(default_factory=dict)
    split: Split | None = None
    shared_uids: frozenset[str] = field(default=frozenset(), repr=False)
    """UIDs of studies and series of its patient that another patient of the source also has."""
    annotated: tuple[str, ...] | None = None
    """Foreground classes that are annotated in its label map; None: all classes."""

    @property
    def key(self) -> str:
        """Key that identifies the image within the source."""
        return "\n".join(self.paths) + place_in_file(self.item)

    def with_labels(self, labels: Mapping[str, str], split: Split | None = None, patient: str = "") -> Self:
        """Return the candidate with labels, and optionally split and patient, from a label table."""
        return replace(
            self,
            labels={**self.labels, **labels},
            split=split or self.split,
            patient=Patient(patient, is_known_elsewhere=True) if patient else self.patient,
        )

    def refused(self, code: str, reason: str) -> Refusal:
        """Return a refusal of the files of this candidate."""
        return Refusal(self.item.files, code, reason)


@dataclass(frozen=True)
class Taken:
    """Stored pixels of an image and the facts derived from them: the part of a row that requires reading pixels.

    `num_mask_values` is the largest class number in the label map plus one. `mask_values` counts the values in the
    label-map file (`medvit.ingest.mask_meaning.MaskCounts`), and `mask_state` identifies the state of that file.
    """

    sha256: str
    shape: tuple[int, ...]
    dtype: str
    modality: str
    mask: str | None
    num_mask_values: int
    spacing_mm: tuple[float, float, float] | None
    affine: tuple[float, ...] | None
    mpp: float | None
    slope: float
    intercept: float
    unit: str
    flags: tuple[Flag, ...] | None = None
    perceptual_hash: str | None = None
    file_sha256: str | None = None
    padding: Padding | None = None
    fallback: str = ""
    num_not_finite: int | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    writing: str = ""
    """Treatment of burned-in text: masked or kept; empty if none was found."""
    mask_values: Mapping[str, int] = field(default_factory=dict)
    mask_state: str = ""
    num_instances: int | None = None
    """Number of instances in a label map that numbers them."""

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Self:
        """Build the record from plain values, in which lists replace tuples."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()
        }
        return cls(**fields)
