"""Survey results: contents of a source, possible labels, patients, and files that would be refused."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medvit.errors import NotAnImageError
from medvit.ingest.labels import LABEL, LabelFrom, are_classes, class_folders
from medvit.ingest.laterality import paired
from medvit.ingest.rows import NO_FAILURE
from medvit.ingest.scan import Scan
from medvit.ingest.survey.images import ImageGroup, groups
from medvit.ingest.survey.names import folder_name, names_nobody, suggested_modalities
from medvit.ingest.survey.tables import SUFFIXES, FoundTable, find_tables, labeled
from medvit.patients import PatientCount
from medvit.records import Candidate, Refusal, Split

PATIENT_PATTERNS = (r"(?i)((?:patient|subject|subj|case|pat)[-_ ]?\d+)", r"(TCGA-\w\w-\w{4})", r"^([^/]+)/")
"""Regular expressions for common names of patients in paths. The last one captures the first folder, if there is one
folder per patient.
"""
SHOWN_PATHS = 1000
"""Maximum number of paths that are searched for words that suggest a modality."""


@dataclass(frozen=True)
class ClassFolders:
    """Folders that may be classes, with the number of images in each.

    `are_taken` states whether the names of the folders become labels.
    """

    counts: dict[str, int] = field(repr=False)
    are_taken: bool

    @property
    def shown(self) -> dict[str, int]:
        """Class names that may be printed because they cannot name a person, with the number of images of each."""
        return {name: number for name, number in self.counts.items() if names_nobody(name)}


@dataclass(frozen=True)
class PatientGuess:
    """Regular expression that finds a patient in every path, and the number of patients it finds."""

    pattern: str
    num_patients: int


@dataclass(frozen=True)
class RefusalReason:
    """Files that would be refused for the same reason; `is_failure` is False for files that are skipped by design."""

    code: str
    text: str
    num_files: int
    is_failure: bool


@dataclass(frozen=True)
class Survey:
    """Contents of a source.

    `candidates` have the labels that ingest would assign with the proposed options.
    """

    num_files: int
    candidates: tuple[Candidate, ...] = field(repr=False)
    groups: tuple[ImageGroup, ...]
    folders: ClassFolders | None
    tables: tuple[FoundTable, ...]
    table: FoundTable | None
    """Table used for labels."""
    mask_folders: tuple[str, ...]
    refused: tuple[RefusalReason, ...]
    suggested: dict[str, str]
    """Modality that a word in a path suggests -> that word; for files that do not state their modality."""
    patients: PatientGuess | None
    """Pattern that would find the identifiers of patients that are now assumed."""

    @property
    def num_failures(self) -> int:
        """Number of files that should be images but would be refused."""
        return sum(reason.num_files for reason in self.refused if reason.is_failure)

    @property
    def num_used(self) -> int:
        """Number of files that belong to images that would be used."""
        return len({file for group in self.groups for one in group.candidates for file in one.item.files})

    @property
    def label_keys(self) -> tuple[str, ...]:
        """Labels with at least two classes, ordered by their number of images."""
        texts: dict[str, Counter[str]] = defaultdict(Counter)
        for one in self.candidates:
            for key, text in one.labels.items():
                texts[key][text] += 1
        usable = [key for key, counts in texts.items() if len(counts) > 1]
        return tuple(sorted(usable, key=lambda key: -texts[key].total()))

    @property
    def num_masks(self) -> int:
        """Number of images with a label map."""
        return sum(group.num_masks for group in self.groups)

    def classes(self, key: str) -> Counter[str]:
        """Return the number of images of each class of a label."""
        return Counter(one.labels[key] for one in self.candidates if key in one.labels)

    @property
    def official_splits(self) -> frozenset[Split]:
        """Official splits that folder or file names state."""
        return frozenset(one.split for one in self.candidates if one.split is not None)

    @property
    def num_patients(self) -> PatientCount:
        """Number of patients, and how many of them are assumed."""
        by_patient = {one.patient.id: one.patient.is_assumed for one in self.candidates}
        return PatientCount(len(by_patient), sum(by_patient.values()))

    @property
    def num_by_id(self) -> int:
        """Number of patients that are named by an identifier in their files."""
        return len({one.patient.id for one in self.candidates if _is_by_id(one)})


def survey(
    found: Scan, *, modality: str = "", label_from: LabelFrom = "auto", table: Path | None = None, place: str = ""
) -> Survey:
    """Return the survey of a scan.

    `modality` applies to files that state none. `label_from=folder` uses folder names as classes unconditionally.
    `table` is a table of labels. `place` is the name of the source, which is searched for words that suggest a
    modality.
    """
    others = (path for one in found.refusals if one.code == NotAnImageError.code for path in one.files)
    beside = [path for path in others if path.name.lower().endswith(SUFFIXES) and path.is_file()]
    tables = find_tables([table] if table else beside, found.candidates, found.files)
    folders = _folders(found.candidates, label_from)
    usable = next((one for one in tables if one.is_usable), None)
    chosen = None if usable is None or (folders and folders.are_taken and table is None) else usable
    if chosen is not None and folders is not None:
        folders = ClassFolders(folders.counts, are_taken=False)
    candidates = _labeled(found, folders, chosen, modality)
    grouped, unsized = groups(candidates, modality)
    kept = tuple(one for group in grouped for one in group.candidates)
    unknown = [one.paths[0] for one in kept if not (one.item.modality or modality)][:SHOWN_PATHS]
    return Survey(
        num_files=len(found.files),
        candidates=kept,
        groups=grouped,
        folders=folders,
        tables=tables,
        table=chosen,
        mask_folders=_mask_folders(kept),
        refused=_reasons((*found.refusals, *unsized)),
        suggested=suggested_modalities((place, *unknown)) if unknown else {},
        patients=_guess(kept, has_classes=folders is not None),
    )


def _is_by_id(candidate: Candidate) -> bool:
    return candidate.patient.is_known_elsewhere and not candidate.patient.is_assumed


def _folders(candidates: Sequence[Candidate], label_from: LabelFrom) -> ClassFolders | None:
    names = class_folders(candidates)
    counts = dict(sorted(Counter(filter(None, names)).items()))
    is_asked = label_from == "folder" and bool(counts)
    if label_from == "off" or not (is_asked or (candidates and are_classes(candidates, names))):
        return None
    return ClassFolders(counts, are_taken=is_asked or all(map(names_nobody, counts)))


def _labeled(
    found: Scan, folders: ClassFolders | None, table: FoundTable | None, modality: str
) -> tuple[Candidate, ...]:
    """Return the candidates with the labels that ingest would assign; both eyes of a person belong to one patient."""
    if table is not None:
        return paired(labeled(table, found.candidates, found.files), modality)
    if folders is None or not folders.are_taken:
        return paired(found.candidates, modality)
    names = class_folders(found.candidates)
    taken = [
        one.with_labels({LABEL: name}) if name and not one.labels else one
        for one, name in zip(found.candidates, names, strict=True)
    ]
    return paired(taken, modality, folders_are_classes=True)


def _mask_folders(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    found = set()
    for one in candidates:
        if one.item.mask is not None:
            beside = one.item.mask.parent == one.item.files[0].parent
            found.add("beside their images" if beside else f"in {folder_name(_differing(one))}")
    return tuple(sorted(found))


def _differing(candidate: Candidate) -> str:
    """Compare the paths of label map and image, and return the first folder of the label map's path that differs."""
    mask, image = candidate.item.mask, candidate.item.files[0]
    assert mask is not None
    pairs = zip(mask.parent.parts, image.parent.parts, strict=False)
    return next((one for one, other in pairs if one != other), mask.parent.name)


def _reasons(refusals: Sequence[Refusal]) -> tuple[RefusalReason, ...]:
    """Group refusals by reason, and return failures first. Reasons that differ only in numbers count as the same."""
    counts: Counter[tuple[str, str]] = Counter()
    texts: dict[tuple[str, str], str] = {}
    for one in refusals:
        kind = (one.code, re.sub(r"\d+(\.\d+)?", "#", one.reason))
        counts[kind] += len(one.files)
        texts.setdefault(kind, one.reason)
    found = [RefusalReason(code, texts[code, kind], n, code not in NO_FAILURE) for (code, kind), n in counts.items()]
    return tuple(sorted(found, key=lambda one: (not one.is_failure, -one.num_files, one.text)))


def _guess(candidates: Sequence[Candidate], *, has_classes: bool) -> PatientGuess | None:
    """Return a regular expression for `patient_from` that fits the paths of images without patient identifiers.

    The expression finds a patient in every path, and fewer patients than are assumed without it. A few common
    expressions are tried; return None if none of them fits, or if some images have a patient identifier.
    """
    assumed = [one for one in candidates if one.patient.is_assumed]
    now = len({one.patient.id for one in assumed})
    if not assumed or len(assumed) < len(candidates):
        return None
    for pattern in PATIENT_PATTERNS[: -1 if has_classes else None]:
        hits = [re.search(pattern, one.paths[0]) for one in assumed]
        found = {hit[1] for hit in hits if hit}
        is_split = any(re.fullmatch("(?i)train(ing)?|test(ing)?|val(id(ation)?)?|images?.*", name) for name in found)
        if all(hits) and 1 < len(found) < now and not is_split:
            return PatientGuess(pattern, len(found))
    return None
