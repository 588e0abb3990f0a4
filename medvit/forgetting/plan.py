"""Plan of the deletion of a patient: what is removed from which artifact, what is kept, and what people must do."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvit.cards import FILE_NAME as CARD
from medvit.cards import HTML, croissant, plots, write_card
from medvit.cards.prose import find_prose, fitting
from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.deidentification.crosswalk import folder_of
from medvit.forgetting.removal import remove_all
from medvit.forgetting.search import Found, search
from medvit.ingest import file_stamps, header_cache
from medvit.lineage.deletions import Deletion, add_deletion, digest_of_patient
from medvit.lineage.index import StoredArtifact
from medvit.lineage.patients import PatientNames, patient_uses

CARDS = (HTML, CARD, croissant.FILE_NAME, plots.FOLDER)
"""Files of a dataset whose pictures and numbers include every patient."""
PAGES = ("report.html", "report.pdf")
"""Files of a report with pictures of patients."""
VIEWS = "pictures"
"""Folder of an MLflow run with pictures of training images."""
PAGE_KINDS = (".html", ".pdf", ".png", ".svg")


@dataclass(frozen=True)
class ArtifactPlan:
    """Removal from one artifact, or from another folder such as the crosswalk (`artifact` is None)."""

    folder: Path
    found: tuple[Found, ...]
    artifact: StoredArtifact | None = None


@dataclass(frozen=True)
class DeletionPlan:
    """Everything that contains data of a patient.

    `weights` are checkpoints that were trained on the patient; they are never edited. `by_hand` are lines about data
    that no program can remove, and `notes` other lines.
    """

    pseudonym: str
    names: PatientNames
    parts: tuple[ArtifactPlan, ...]
    weights: tuple[Path, ...]
    by_hand: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing contains data of the patient."""
        return not self.parts and not self.weights

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        found = [f"  {one}" for part in self.parts for one in part.found]
        weights = [f"  {folder}: trained on this patient; weights are not edited" for folder in self.weights]
        return [
            f"data of {self.pseudonym}:",
            *(found or ["  none"]),
            *(["weights:", *weights] if weights else []),
            *(["to do by hand:", *(f"  {line}" for line in self.by_hand)] if self.by_hand else []),
            *(f"note: {line}" for line in self.notes),
        ]

    def apply(self, root: Path) -> None:
        """Remove the data, write new cards of the datasets, and record the deletion by digest below `root`.

        Datasets are last, because their rows have the names of everything else.
        """
        counts: Counter[str] = Counter()
        for part in sorted(self.parts, key=lambda one: one.artifact is not None and one.artifact.kind == "dataset"):
            own = self._remove(part)
            counts.update(own)
        add_deletion(root, Deletion(digest_of_patient(self.pseudonym), _now(), counts=dict(counts)))

    def _remove(self, part: ArtifactPlan) -> Mapping[str, int]:
        before = "" if part.artifact is None else part.artifact.digest
        counts = Counter[str]()
        for one in part.found:
            counts[one.action] += one.number
        remove_all(part.found, self.names)
        if part.artifact is None:
            return counts
        now = StoredArtifact(part.folder, part.artifact.lineage)
        if part.artifact.kind == "dataset":
            _write_card(part.folder)
        deletion = Deletion(digest_of_patient(self.pseudonym), _now(), before, now.digest, dict(counts))
        add_deletion(part.folder, deletion)
        return counts


def plan_deletion(
    pseudonym: str, artifacts: Sequence[StoredArtifact], key: Path, mlflow: Mapping[str, Path]
) -> DeletionPlan:
    """Return the plan of the deletion of a patient from artifacts, from their MLflow runs, and from the crosswalk.

    `mlflow` maps the runs of artifacts to the folders with their files.
    """
    names = PatientNames.of(pseudonym, artifacts)
    kinds = {one.artifact.folder: one.artifact.kind for one in patient_uses(names, artifacts)}
    parts, by_hand = [], []
    weights = tuple(folder for folder, kind in kinds.items() if kind == "checkpoint")
    for one in artifacts:
        kind = kinds.get(one.folder, "")
        found = _found(one.folder, names, kind)
        parts += [ArtifactPlan(one.folder, found, one)] if found else []
        copy = (one.config.get("deidentify") or {}).get("copy_to") if one.kind == "dataset" else None
        if copy and Path(copy).is_dir():
            in_copy = tuple(search(Path(copy), names))
            parts += [ArtifactPlan(Path(copy), in_copy)] if in_copy else []
        logged = mlflow.get(one.lineage.run_id or "")
        if logged is not None and logged.is_dir():
            in_run = _found(logged, names, kind)
            parts += [ArtifactPlan(logged, in_run)] if in_run else []
        if one.kind == "other" and _may_show(one, artifacts, kinds):
            by_hand.append(f"{one.folder}: its pages were made from data of this patient; delete it, or make it again")
    parts += _beside_key(key, names, [one for one in artifacts if kinds.get(one.folder) == "dataset"])
    return DeletionPlan(pseudonym, names, tuple(parts), weights, tuple(by_hand), tuple(_sources(artifacts, kinds)))


def _found(folder: Path, names: PatientNames, kind: str) -> tuple[Found, ...]:
    """Return what a folder contains of a patient, and the pages that show all patients, if this one is among them."""
    found = list(search(folder, names))
    pages = {"dataset": (*CARDS, file_stamps.FILE_NAME), "report": PAGES, "checkpoint": (VIEWS,)}.get(kind, ())
    places = [folder / name for name in pages]
    known = {one.path for one in found}
    return (*found, *(Found(path, "delete", 1) for path in places if path.exists() and path not in known))


def _may_show(artifact: StoredArtifact, artifacts: Sequence[StoredArtifact], kinds: Mapping[Path, str]) -> bool:
    """Return whether an artifact has pages and was made from an artifact that contains data of the patient."""
    digests = {one.digest for one in artifacts if kinds.get(one.folder) in ("dataset", "embeddings", "report")}
    has_pages = any(path.suffix in PAGE_KINDS for path in artifact.folder.rglob("*"))
    return has_pages and not digests.isdisjoint(artifact.lineage.inputs.values())


def _beside_key(key: Path, names: PatientNames, datasets: Sequence[StoredArtifact]) -> list[ArtifactPlan]:
    """Return what the crosswalks contain, and the header caches of datasets, which name all patients."""
    folder = folder_of(key)
    found = tuple(search(folder, names)) if folder.is_dir() else ()
    caches = [header_cache.place(key, one.name) for one in datasets]
    headers = tuple(Found(path, "delete", 1) for path in caches if path.is_file())
    return [ArtifactPlan(folder, own) for own in (found, headers) if own]


def _sources(artifacts: Sequence[StoredArtifact], kinds: Mapping[Path, str]) -> list[str]:
    found = [one.folder for one in artifacts if kinds.get(one.folder) == "dataset" and one.lineage.stage == "ingest"]
    return [
        f"remove the patient from the source of {folder}, too; an update of this dataset would add them again"
        for folder in found
    ]


def _write_card(folder: Path) -> None:
    manifest = Manifest.read(folder)
    if not manifest.rows:
        return
    refused = quarantine.read(folder) if (folder / quarantine.FILE_NAME).is_file() else ()
    shutil.rmtree(folder / plots.FOLDER, ignore_errors=True)
    write_card(manifest, refused, fitting(find_prose(None, manifest.facts.name), manifest.rows))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
