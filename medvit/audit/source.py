"""Needles of a source: all values that identify patients in its files, tables and file names."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from medvit.audit.needles import IdentifyingValues, Needles, ReadValues, collect_needles
from medvit.audit.search import Search, by_pseudonym
from medvit.dataset.manifest import Manifest
from medvit.deidentification.profile import Profile
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.engine import EngineConfig, map_items
from medvit.engine.outcome import Outcome
from medvit.errors import DataError, TimeLimitError
from medvit.records import Patient
from medvit.sources import Location, RetrieveConfig, fetch, local_path

log = logging.getLogger("medvit")


def read_source(
    source: Location,
    retrieve: RetrieveConfig,
    tables: Sequence[Path],
    manifest: Manifest,
    *,
    profile: Profile,
    ignored: Sequence[str],
    engine: EngineConfig,
) -> Needles:
    """Return the identifying values to search for (needles) of a source and of additional `tables`.

    `profile` is the de-identification profile of the DICOM copy.

    Words in `ignored`, the name of the dataset and the names of its classes are excluded.

    Raises:
        DataError: If the source contains no file, or a table is missing.
    """
    path = local_path(source)
    with tempfile.TemporaryDirectory() as work:
        local = fetch(source, retrieve, work=Path(work))
        refused = [file for refusal in local.refusals for file in refusal.files]
        names = [*local.files, *refused, *([path] if path is not None and path.is_file() else [])]
        files = [*local.files, *(_existing(table) for table in tables)]
        outcomes = map_items(ReadValues(profile), files, config=engine, title="read")
        lost = (IdentifyingValues(unread=refusal.reason) for refusal in local.refusals for _ in refusal.files)
        found = chain(map(_values, outcomes), lost)
        classes = {text for row in manifest for label in row.labels.items() for text in label}
        called = str(manifest.facts.name)
        needles = collect_needles(
            names, local.root, found, ignored, num_files=len(files), dataset=called, classes=classes
        )
        local.discard()
    return needles


def _existing(table: Path) -> Path:
    if not table.is_file():
        raise DataError(f"no table at {table}; expected existing files in labels=[...]")
    return table


def _values(outcome: Outcome[Path, IdentifyingValues]) -> IdentifyingValues:
    if outcome.result is not None:
        return outcome.result
    # The text of another error may name a file or a patient.
    is_late = isinstance(outcome.error, TimeLimitError)
    return IdentifyingValues(unread=str(outcome.error) if is_late else "reading stopped at an unexpected error")


def keyed_search(needles: Needles, manifest: Manifest, key: Path, *, is_by_patient_id: bool) -> Search:
    """Return the search for identifying values (needles), which can also compare shifted dates in a DICOM copy.

    With the site's `key`, the number of days by which the copy shifts the dates of each patient is computed. Without a
    key file, dates in the copy are not searched, and a warning is logged. `is_by_patient_id` states whether the
    patients of the dataset are named by their PatientID; if so, a warning is logged if none of them is in the source.
    """
    if not key.expanduser().is_file():
        log.warning(
            "no key file at %s, so dates in a DICOM copy are not searched, and it cannot be checked whether "
            "the dataset was made from this source; give key=...",
            key,
        )
        return Search(needles)
    pseudonyms = Pseudonyms.with_key_file(key, "")
    if is_by_patient_id:
        _warn_of_strangers(needles, manifest, pseudonyms)
    patients = {name: Patient(name, is_known_elsewhere=True) for name in needles.dates}
    names = {name: pseudonyms.patient(patient) for name, patient in patients.items()}
    moves = {names[name]: pseudonyms.days(patient) for name, patient in patients.items()}
    return Search(by_pseudonym(needles, names), moves)


def _warn_of_strangers(needles: Needles, manifest: Manifest, pseudonyms: Pseudonyms) -> None:
    """Warn if none of the patients that the source names by PatientID is in the dataset."""
    known = {row.patient_id for row in manifest}
    here = {pseudonyms.patient(Patient(name, is_known_elsewhere=True)) for name in needles.patients}
    if known and here and not known & here:
        log.warning(
            "none of the %d patients that the source names by PatientID is in the dataset: the audit is meaningful "
            "only if the dataset was made from this source with this key; check source and key=...",
            len(here),
        )
