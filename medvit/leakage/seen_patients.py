"""Whom a model has learned from: the patients of its own training images, and those its start weights learned from.

They lie beside the weights as digests of pseudonyms, so that whoever evaluates the model at the same site, or unites it
with other data there, can tell what it has seen, and nobody else anything. Pseudonyms of one site key are equal for the
same patient wherever PatientID says who that is; a patient known only by a file name has another in every dataset,
where `medvit leakage` can still tell by pixels and looks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from medvit.artifacts import PATIENTS
from medvit.files.atomic import write_text
from medvit.records import Row

DIGEST_LETTERS = 32


def write_training_patients(folder: Path, rows: Iterable[Row], before: Iterable[str] = ()) -> None:
    """Writes `patients.txt` into a checkpoint: the patients of rows, and those `before` of what it started from."""
    found = {*before, *(_digest(row.patient_id) for row in rows)}
    write_text(folder / PATIENTS, "".join(f"{digest}\n" for digest in sorted(found)))


def training_patients(folder: Path) -> frozenset[str]:
    """The digests of patients in a checkpoint; none where nothing was noted, as with public weights."""
    path = folder / PATIENTS
    return frozenset(path.read_text(encoding="utf-8").split()) if path.is_file() else frozenset()


def seen_patients(folder: Path, rows: Iterable[Row]) -> frozenset[str]:
    """The patients of rows that the model in a folder has learned from."""
    known = training_patients(folder)
    return frozenset(row.patient_id for row in rows if _digest(row.patient_id) in known)


def _digest(patient_id: str) -> str:
    return hashlib.sha256(f"medvit learned from {patient_id}".encode()).hexdigest()[:DIGEST_LETTERS]
