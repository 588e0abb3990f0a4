"""Patients a model and its initial weights were trained on.

They are stored beside the weights as digests of pseudonyms, so that an evaluation of the model at the same site, or a
merge with other data there, can detect patients it has seen, while nobody else learns anything. With one site key, a
patient known by PatientID has the same pseudonym everywhere; a patient known only by a file name has another in every
dataset, where `medvit leakage` can still compare pixels.
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
    """Write `patients.txt` into a checkpoint: the patients of rows, and those of its initial weights (`before`)."""
    found = {*before, *(_digest(name) for row in rows for name in _names(row))}
    write_text(folder / PATIENTS, "".join(f"{digest}\n" for digest in sorted(found)))


def training_patients(folder: Path) -> frozenset[str]:
    """Return the digests of patients in a checkpoint; empty if none were recorded, as for public weights."""
    path = folder / PATIENTS
    return frozenset(path.read_text(encoding="utf-8").split()) if path.is_file() else frozenset()


def seen_patients(folder: Path, rows: Iterable[Row]) -> frozenset[str]:
    """Return the patients of rows that the model in a folder was trained on."""
    known = training_patients(folder)
    return frozenset(row.patient_id for row in rows if any(_digest(name) in known for name in _names(row)))


def _names(row: Row) -> list[str]:
    """Return the pseudonyms of a patient: where another source had one issuer only, it is that of the PatientID."""
    return [name for name in (row.patient_id, row.patient_any_issuer) if name]


def _digest(patient_id: str) -> str:
    return hashlib.sha256(f"medvit learned from {patient_id}".encode()).hexdigest()[:DIGEST_LETTERS]
