"""Artifacts that were made from the data of a patient, given the pseudonym of the patient."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq

from medvit.artifacts import STATUS
from medvit.dataset.manifest import Manifest
from medvit.embeddings.table import TABLE
from medvit.leakage.seen_patients import digests_of, training_patients
from medvit.lineage.index import StoredArtifact
from medvit.summary import counted

PREDICTED = "predictions.parquet"
"""Table of a report with the prediction of every image."""


@dataclass(frozen=True)
class PatientNames:
    """Pseudonyms of one patient, and of the studies, series and images of this patient, from all datasets.

    `addresses` are the addresses of the pixels and label maps of this patient in the stores of the datasets, without
    those that another patient has, too.
    """

    patients: frozenset[str]
    others: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()

    @classmethod
    def of(cls, pseudonym: str, artifacts: Iterable[StoredArtifact]) -> PatientNames:
        """Return the names of a patient, collected from the datasets and embeddings among `artifacts`."""
        patients, others, addresses = {pseudonym}, set[str](), set[str]()
        rows = [row for one in artifacts if one.kind == "dataset" for row in Manifest.read(one.folder)]
        for _ in range(2):  # a name for any issuer leads to the names for each issuer
            for row in rows:
                own = {name for name in (row.patient_id, row.patient_any_issuer) if name}
                if own & patients:
                    patients |= own
                    others |= {row.study_id, row.series_id, row.image_id}
                    addresses |= {address for address in (row.sha256, row.mask) if address}
        shared = {address for row in rows if row.patient_id not in patients for address in (row.sha256, row.mask)}
        return cls(frozenset(patients), frozenset(others - {""}), frozenset(addresses - shared))

    @cached_property
    def all(self) -> frozenset[str]:
        """All pseudonyms."""
        return self.patients | self.others

    @cached_property
    def digests(self) -> frozenset[str]:
        """Digests by which checkpoints record the patient."""
        return digests_of(self.patients)


@dataclass(frozen=True)
class PatientUse:
    """Artifact that contains data of a patient, or was trained on them; `what` is a text such as `3 images`."""

    artifact: StoredArtifact
    what: str


def patient_uses(names: PatientNames, artifacts: Sequence[StoredArtifact]) -> Iterator[PatientUse]:
    """Yield the artifacts that contain data of a patient or were trained on them."""
    for one in artifacts:
        what = _use(names, one)
        if what:
            yield PatientUse(one, what)


def _use(names: PatientNames, artifact: StoredArtifact) -> str:
    folder = artifact.folder
    if artifact.kind == "dataset":
        number = sum(bool({row.patient_id, row.patient_any_issuer} & names.patients) for row in Manifest.read(folder))
        return counted(number, "image") if number else ""
    if artifact.kind == "checkpoint":
        return "trained on this patient" if training_patients(folder) & names.digests else ""
    if artifact.kind in ("embeddings", "report"):
        path = folder / (TABLE if artifact.kind == "embeddings" else PREDICTED)
        number = _num_rows(path, names.patients)
        return counted(number, "image") if number else ""
    if artifact.kind == "predictions":
        with (folder / STATUS).open(encoding="utf-8", newline="") as file:
            number = sum(line.get("study") in names.others for line in csv.DictReader(file))
        return f"{number} {'study' if number == 1 else 'studies'}" if number else ""
    return ""


def _num_rows(path: Path, patients: frozenset[str]) -> int:
    if not path.is_file() or "patient_id" not in pq.read_schema(path).names:
        return 0
    return sum(name in patients for name in pq.read_table(path, columns=["patient_id"])["patient_id"].to_pylist())
