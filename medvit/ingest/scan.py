"""Which images a source holds, who they are of and which official split they lie in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medvit import readers
from medvit.errors import DataError
from medvit.ingest import SPLIT_NAMES, Candidate, Patient, place_in_file
from medvit.samples import Item, Refusal, Split
from medvit.sources import Local, folder

BIDS_SUBJECT = re.compile(r"(?:^|/)(sub-[A-Za-z0-9]+)(?:/|_|$)")
"""The entity that names the subject in paths of the Brain Imaging Data Structure (BIDS specification 1.9)."""
NNUNET_CASE = re.compile(r"^((?:.*/)?images(?:Tr|Ts)/[^/]+)_\d{4}\.[^/]+$")
"""The case in nnU-Net's `imagesTr/CASE_0000.nii.gz`, whose channels are of one patient."""


@dataclass(frozen=True)
class Scan:
    """What a source holds. `files` are the paths of all its files, relative to `root`."""

    root: Path = field(repr=False)
    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    files: tuple[str, ...] = field(repr=False)


def scan(source: Path | Local, *, patient_from: str | None = None) -> Scan:
    """The images of a folder, of the one file that `source` is, or of a source that was fetched; reads no pixels.

    The patient of an image is what the group of `patient_from` finds in its path; or its DICOM PatientID; or the BIDS
    subject or the case of nnU-Net in its path; or its study, where it names one; or the path itself, so that an image
    is a patient.

    Raises:
        DataError: If the source is missing or holds no file.
    """
    local = source if isinstance(source, Local) else folder.local(source)
    root, files = local.root, local.files
    candidates: list[Candidate] = []
    refusals: list[Refusal] = list(local.refusals)
    for found in readers.find(files):
        try:
            if isinstance(found, Refusal):
                refusals.append(found)
            else:
                candidates.append(_candidate(found, root, patient_from))
        except DataError as error:
            refusals.append(Refusal(found.files, error.code, str(error)))
    return Scan(root, tuple(candidates), tuple(refusals), tuple(_relative(file, root) for file in files))


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _candidate(item: Item, root: Path, patient_from: str | None) -> Candidate:
    paths = tuple(_relative(file, root) for file in item.files)
    patient = _patient(item, paths, patient_from)
    return Candidate(item, paths, patient, item.labels, item.split or _official_split(paths[0]))


def _patient(item: Item, paths: tuple[str, ...], patient_from: str | None) -> Patient:
    if patient_from is not None:
        match = re.search(patient_from, paths[0])
        if match is None or not match.group(1):
            raise DataError("patient_from does not match its path; change it, or leave the file out of the source")
        return Patient(match.group(1))
    if item.identity.patient:
        return Patient(item.identity.patient, is_known_elsewhere=True)
    for pattern in (BIDS_SUBJECT, NNUNET_CASE):
        if named := pattern.search(paths[0]):
            return Patient(named.group(1))
    if item.identity.study:
        return Patient(item.identity.study, is_known_elsewhere=True)
    if len(paths) > 1:
        return Patient(PurePosixPath(paths[0]).parent.as_posix())
    return Patient(paths[0] + place_in_file(item))


def _official_split(path: str) -> Split | None:
    """The split that the innermost folder of a split's name says."""
    for name in reversed(PurePosixPath(path).parts[:-1]):
        if name.casefold() in SPLIT_NAMES:
            return SPLIT_NAMES[name.casefold()]
    return None
