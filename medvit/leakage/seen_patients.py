"""Patients that a model and its initial weights were trained on.

The patients are stored next to the weights as digests of their pseudonyms. At the same site, an evaluation of the model
can thus detect patients that the model has seen. Without the site key, nobody can identify the patients. With the same
site key, a patient known by PatientID has the same pseudonym in every dataset. A patient known only by a file name has
a different pseudonym in each dataset; for such datasets, `medvit leakage` can still compare pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

from medvit.artifacts import PATIENTS
from medvit.files.atomic import write_text
from medvit.records import Row

DIGEST_LETTERS = 32


def write_training_patients(folder: Path, rows: Iterable[Row], before: Iterable[str] = ()) -> None:
    """Write `patients.txt` into a checkpoint folder, with the digests of all training patients.

    These are the patients of `rows`, and the patients that the initial weights were trained on (digests in `before`).
    """
    found = {*before, *(_digest(name) for row in rows for name in _names(row))}
    write_text(folder / PATIENTS, "".join(f"{digest}\n" for digest in sorted(found)))


def training_patients(folder: Path) -> frozenset[str]:
    """Return the digests of the training patients of a checkpoint.

    The result is empty if the checkpoint has no such record, as for public weights.
    """
    path = folder / PATIENTS
    return frozenset(path.read_text(encoding="utf-8").split()) if path.is_file() else frozenset()


def seen_patients(folder: Path, rows: Iterable[Row]) -> frozenset[str]:
    """Return the patients of `rows` that the model in a folder was trained on."""
    return patients_among(training_patients(folder), rows)


def patients_among(known: Collection[str], rows: Iterable[Row]) -> frozenset[str]:
    """Return the patients of `rows` whose digests are in `known`."""
    return frozenset(row.patient_id for row in rows if any(_digest(name) in known for name in _names(row)))


def digests_of(pseudonyms: Iterable[str]) -> frozenset[str]:
    """Return the digests by which checkpoints record patients, given their pseudonyms."""
    return frozenset(map(_digest, pseudonyms))


def _names(row: Row) -> list[str]:
    """Return the pseudonyms of the patient of a row, including the one derived from the PatientID alone."""
    return [name for name in (row.patient_id, row.patient_any_issuer) if name]


def _digest(patient_id: str) -> str:
    return hashlib.sha256(f"medvit learned from {patient_id}".encode()).hexdigest()[:DIGEST_LETTERS]
