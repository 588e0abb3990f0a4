"""Images of a source, their patients and their official splits."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Self

from pydantic import Field, model_validator

from medvit import readers
from medvit.config import Config, Positive
from medvit.deidentification.patient_ids import with_issuers
from medvit.dicom.header import read_header
from medvit.engine import EngineConfig, map_items
from medvit.engine.outcome import Outcome
from medvit.errors import DataError, MedvitError, NotAnImageError, TimeLimitError, UnreadableError
from medvit.files.guard import decoding, silence
from medvit.files.head import read_head
from medvit.files.limits import MAX_VOLUME_GIB, allowed_gib
from medvit.hardware import few_collections
from medvit.ingest.file_stamps import (
    READING_ROOMS,
    UNKNOWN,
    Stamp,
    StateOf,
    batched,
    lengths,
    stamp,
    stamp_of,
    stamps,
    version_of,
)
from medvit.ingest.header_cache import HeaderCache
from medvit.ingest.label_cells import composed
from medvit.ingest.laterality import EyeConfig, GroupPattern
from medvit.readers import ScannedFile
from medvit.readers.channels import ChannelsConfig, combined
from medvit.readers.image_stack import StacksConfig
from medvit.readers.label_maps import ORPHAN
from medvit.readers.options import GeometryConfig
from medvit.records import SPLIT_NAMES, Candidate, Identity, Item, Patient, Refusal, Split, is_frame, place_in_file
from medvit.sources import Local, folder
from medvit.wsi.slide import MODALITY, TIFF_SUFFIXES

log = logging.getLogger("medvit")

BIDS_SUBJECT = re.compile(r"(?:^|/)(sub-[A-Za-z0-9]+)(?:/|_|$)")
"""The entity that names the subject in paths of the Brain Imaging Data Structure (BIDS specification 1.9)."""
NNUNET_CASE = re.compile(r"^((?:.*/)?images(?:Tr|Ts)/[^/]+)_\d{4}\.[^/]+$")
"""Case of nnU-Net's `imagesTr/CASE_0000.nii.gz`, whose channels are of one patient."""


class ScanningConfig(Config):
    """Reading of files and folders, and metadata that the files do not contain."""

    patient_from: GroupPattern | None = None
    """Regex with one group that captures the patient ID from the file path. Unset: the DICOM PatientID or the BIDS
    subject. Without these, each study counts as a patient, and so does each image without a study.
    """
    site_from: GroupPattern | None = None
    """Regex with one group that captures the site (hospital) from the file path. Unset: DICOM InstitutionName."""
    modality: str = ""
    """DICOM code of the modality, such as MR, CT, DX or US, for files that do not state theirs."""
    geometry: GeometryConfig = Field(default_factory=GeometryConfig)
    stacks: StacksConfig | None = None
    """Folders whose images form one volume each, such as B-scans of OCT. Unset: each image is a separate item."""
    channels: ChannelsConfig | None = None
    """Separate images, such as the sequences of an MR study, that form one image with named channels. Unset: each image
    is a separate item.
    """
    mask_folder: tuple[str, ...] = ()
    """Names of the folders with label maps, next to the folders of images. Empty: folders with the name labels, masks,
    gt or a similar one.
    """
    field_of_view_folder: tuple[str, ...] = ()
    """Names of the folders with fields of view, next to the folders of images, such as mask in DRIVE. The files in
    these folders are 0 outside the field of view. Pixels outside the field of view count in neither the loss nor the
    metrics. Empty: all pixels count.
    """
    eye: EyeConfig = Field(default_factory=EyeConfig)
    max_volume_gib: Positive = MAX_VOLUME_GIB
    """Maximum size in GiB of a decompressed image or volume, in any format. Larger ones are refused."""

    @model_validator(mode="after")
    def _fields_are_of_images(self) -> Self:
        names = {name.casefold() for name in self.mask_folder}
        both = sorted(name for name in self.field_of_view_folder if name.casefold() in names)
        if both:
            raise ValueError(f"mask_folder and field_of_view_folder both name {both[0]}; remove it from one of them")
        if self.field_of_view_folder and self.stacks is not None:
            raise ValueError("field_of_view_folder does not work with stacks; remove one of them")
        return self


NOT_OPENED = (NotAnImageError.code, ORPHAN, TimeLimitError.code)
"""Codes of refusals whose files are not opened again to find their patient: they are not of a patient, or would hang
again.
"""
NOWHERE = Path()
"""Placeholder for the path of a file sent between processes."""


@dataclass(frozen=True)
class Scan:
    """Files and candidates of a source.

    `files` are the paths of all files, relative to `root`; `stamps` are their states.
    """

    root: Path = field(repr=False)
    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    files: tuple[str, ...] = field(repr=False)
    stamps: Mapping[Path, Stamp] = field(repr=False)
    refused: tuple[Identity, ...] = field(default=(), repr=False)
    """Patients and studies of refused DICOM images; a patient may have only such images."""


@dataclass
class Remembered:
    """Cached headers of an earlier scan (`memory`), and the headers to cache from this scan (`seen`).

    Each header is stored with the state of its file, a hash that the function `state` computes.
    """

    memory: HeaderCache
    state: StateOf
    seen: list[tuple[str, ScannedFile]] = field(default_factory=list, repr=False)


def scan(
    source: Path | Local,
    config: ScanningConfig | None = None,
    *,
    slide_mpp: float | None = None,
    engine: EngineConfig | None = None,
    remembered: Remembered | None = None,
) -> Scan:
    """Find the images of a source, which is a folder, a single file, or a fetched source, without reading pixels.

    The workers of `engine` read the headers. For files whose present state is in `remembered`, only the beginning of
    the file is read.

    The patient of an image is the text that `patient_from` captures from its path. If `patient_from` is unset, it is
    the DICOM PatientID or the BIDS subject in the path. An image without any of these gets an assumed patient: the
    nnU-Net case in its path, else its study, else the image itself counts as a patient. If several issuers assigned the
    same PatientID, the patient is `ID^^^ISSUER`.

    `slide_mpp` is the pixel size (microns) of slides that do not state theirs; if it is given, plain TIFF images are
    slides.

    Raises:
        DataError: If the source is missing or empty.
    """
    config = config or ScanningConfig()
    local = source if isinstance(source, Local) else folder.local(source)
    root, files = local.root, local.files
    candidates: list[Candidate] = []
    refusals: list[Refusal] = list(local.refusals)
    eye = _Eye(root, engine or EngineConfig(), remembered)
    how: dict[str, Any] = {"geometry": config.geometry, "stacks": config.stacks, "mask_folder": config.mask_folder}
    how["field_of_view_folder"] = config.field_of_view_folder
    with few_collections():
        for found in combined(readers.find(files, look=eye, **how), config.channels, root):
            try:
                if isinstance(found, Refusal):
                    refusals.append(found)
                else:
                    candidates.append(_candidate(found, root, config))
            except DataError as error:
                refusals.append(Refusal(found.files, error.code, str(error)))
    _report_frames(candidates)
    _report_unused_fields(candidates)
    relative = tuple(_relative(file, root) for file in files)
    refused = tuple(filter(None, map(_identity, refusals)))
    known = with_issuers(candidates, refused)
    if slide_mpp is not None:
        known = tuple(map(_as_slide, known))
    return Scan(root, known, tuple(refusals), relative, eye.stamps, refused)


def _as_slide(candidate: Candidate) -> Candidate:
    """Return the candidate as a slide if it is a plain TIFF image, else unchanged."""
    item = candidate.item
    if item.reader != "image" or not item.files[0].name.lower().endswith(TIFF_SUFFIXES):
        return candidate
    return replace(candidate, item=replace(item, reader="slide", kind="slide", modality=MODALITY))


def _report_frames(candidates: Sequence[Candidate]) -> None:
    frames = [one.item for one in candidates if one.item.kind == "image" and is_frame(one.item.part)]
    if frames:
        log.info(
            "%d frames of %d multi-frame files are stored as separate images without a position in the patient: %s",
            len(frames),
            len({item.files for item in frames}),
            ", ".join(f"{n} of {name or 'unknown'}" for name, n in Counter(i.modality for i in frames).most_common()),
        )


def _report_unused_fields(candidates: Sequence[Candidate]) -> None:
    unused = sum(one.item.field_of_view is not None and one.item.mask is None for one in candidates)
    if unused:
        log.warning(
            "%d images with a field of view (scanning.field_of_view_folder) have no label map; a field of view only "
            "excludes pixels of a label map, so that it has no effect for these images",
            unused,
        )


@dataclass
class _Eye:
    """Function object that yields the headers of files, from the header cache or read by the workers of an engine."""

    root: Path
    engine: EngineConfig
    remembered: Remembered | None
    stamps: dict[Path, Stamp] = field(default_factory=dict)

    def __call__(self, files: Sequence[Path]) -> Iterator[ScannedFile]:
        if self.remembered is None:
            yield from self._look(files)
            return
        known: list[tuple[str, ScannedFile] | None] = [None] * len(files)
        if self.remembered.memory:
            self.stamps = stamps(files, self.engine)
            known = [self._recalled(file, self.remembered) for file in files]
        unknown = self._look([file for file, one in zip(files, known, strict=True) if one is None])
        for file, one in zip(files, known, strict=True):
            seen = next(unknown) if one is None else one[1]
            self.remembered.seen.append(one or (self._state(file, self.remembered), seen))
            yield seen

    def _look(self, files: Sequence[Path]) -> Iterator[ScannedFile]:
        """Yield the headers of the files, and record the stamps of the files from the same read."""
        for file, (seen, taken) in zip(files, _looked(files, self.engine), strict=True):
            self.stamps[file] = taken
            yield seen

    def _recalled(self, file: Path, remembered: Remembered) -> tuple[str, ScannedFile] | None:
        state = self._state(file, remembered)
        seen = remembered.memory.recall(file, state)
        return None if seen is None else (state, seen)

    def _state(self, file: Path, remembered: Remembered) -> str:
        # A file refused for its size may now be within the limit.
        limit = () if allowed_gib() == MAX_VOLUME_GIB else (allowed_gib(),)
        return remembered.state(_relative(file, self.root), *self.stamps[file], version_of(READING_ROOMS), *limit)


def _looked(files: Sequence[Path], engine: EngineConfig) -> Iterator[tuple[ScannedFile, Stamp]]:
    batches = list(batched(files))
    outcomes = map_items(_look_at_each, batches, config=engine, title="scan", weights=lengths(batches), unit="file")
    for outcome in outcomes:
        if outcome.result is not None:
            yield from map(_placed, outcome.result, outcome.item)
        else:
            alone = map_items(_look_at, outcome.item, config=engine, title="scan one by one", unit="file")
            yield from map(_alone, alone)


def _look_at_each(files: tuple[Path, ...]) -> tuple[tuple[ScannedFile, Stamp], ...]:
    with silence():
        return tuple(_placed(_look_at(file), NOWHERE) for file in files)


def _look_at(file: Path) -> tuple[ScannedFile, Stamp]:
    try:
        beginning = read_head(file)
    except OSError:
        return readers.scan_file(file), stamp(file)  # which report what is wrong
    return readers.scan_file(file, beginning), stamp_of(beginning)


def _placed(found: tuple[ScannedFile, Stamp], path: Path) -> tuple[ScannedFile, Stamp]:
    """Set the path of a file in its header, in place; return the header and the stamp of the file.

    Headers are sent between processes without paths, because pickling and copying paths would double the time.
    """
    seen = found[0]
    for header in seen.headers:
        object.__setattr__(header, "file", path)
    if seen.refusal is not None:
        object.__setattr__(seen.refusal, "files", (path,))
    object.__setattr__(seen, "path", path)
    return found


def _alone(outcome: Outcome[Path, tuple[ScannedFile, Stamp]]) -> tuple[ScannedFile, Stamp]:
    if outcome.result is not None:
        return _placed(outcome.result, outcome.item)
    error = outcome.error
    # The text of a library's error may name a file or a patient.
    reason = (
        str(error) if isinstance(error, MedvitError) else f"reading stopped at an unexpected {type(error).__name__}"
    )
    code = error.code if isinstance(error, TimeLimitError) else UnreadableError.code
    seen = ScannedFile(outcome.item, refusal=Refusal((outcome.item,), code, reason))
    # A file that hung or killed a worker is not opened in this process: it would end the whole run.
    return seen, UNKNOWN if isinstance(error, MedvitError) else stamp(outcome.item)


def _relative(file: Path, root: Path) -> str:
    return "/".join(file.parts[len(root.parts) :])  # `relative_to` takes 15 times as long


def _candidate(item: Item, root: Path, config: ScanningConfig) -> Candidate:
    parts = [_candidate(part, root, config) for _, part in item.channels]
    if len({part.patient.id for part in parts if not part.patient.is_assumed}) > 1:
        raise DataError(
            "its channels cannot be combined: they are of several patients; set channels.group so that it separates "
            "patients"
        )
    splits = sorted({part.split or "none" for part in parts})
    if len(splits) > 1:
        raise DataError(
            f"its channels cannot be combined: their splits are {' and '.join(splits)}; expected one split: set "
            "channels.group so that it separates splits, or move the files"
        )
    paths = tuple(_relative(file, root) for file in item.files)
    # The paths of combined files are those of one image, not of the folder of a series.
    patient = parts[0].patient if parts else _patient(item, paths, config.patient_from)
    item = _with_site(item, paths[0], config.site_from)
    return Candidate(item, paths, patient, item.labels, item.split or _official_split(paths[0]))


def _with_site(item: Item, path: str, site_from: str | None) -> Item:
    """Return the item with the site that its path names."""
    if site_from is None:
        return item
    match = re.search(site_from, path)
    if match is None or not match.group(1):
        raise DataError(
            "the regular expression scanning.site_from does not match the path of the file; change the expression, or "
            "remove the file from the source"
        )
    return replace(item, identity=replace(item.identity, institution=composed(match.group(1))))


def _identity(refusal: Refusal) -> Identity | None:
    """Return the identity (patient and study) of a refused DICOM image; None for other files."""
    # A path that is not a regular file may be a named pipe, which must not be waited for.
    if refusal.code in NOT_OPENED or not refusal.files or not refusal.files[0].is_file():
        return None
    try:
        with decoding("the DICOM header"):
            header = read_header(refusal.files[0])
    except (MedvitError, OSError):  # the readers have reported why
        return None
    return Identity(header.patient, header.study, header.series, header.issuer)


def _patient(item: Item, paths: tuple[str, ...], patient_from: str | None) -> Patient:
    if patient_from is not None:
        match = re.search(patient_from, paths[0])
        if match is None or not match.group(1):
            raise DataError(
                "the regular expression scanning.patient_from does not match the path of the file; change the "
                "expression, or remove the file from the source"
            )
        # Some systems write file names decomposed (NFD): one patient must not become two.
        return Patient(composed(match.group(1)))
    if item.identity.patient:
        return Patient(item.identity.patient, is_known_elsewhere=True)
    if named := BIDS_SUBJECT.search(paths[0]):
        return Patient(named.group(1))
    if case := NNUNET_CASE.search(paths[0]):
        return Patient(case.group(1), is_assumed=True)
    if item.identity.study:
        return Patient(item.identity.study, is_known_elsewhere=True, is_assumed=True)
    if len(paths) > 1:
        return Patient(PurePosixPath(paths[0]).parent.as_posix(), is_assumed=True)
    return Patient(paths[0] + place_in_file(item), is_assumed=True)


def _official_split(path: str) -> Split | None:
    """Return the official split that a folder name in the path states (the innermost, if several do); else None."""
    for name in reversed(PurePosixPath(path).parts[:-1]):
        if name.casefold() in SPLIT_NAMES:
            return SPLIT_NAMES[name.casefold()]
    return None
