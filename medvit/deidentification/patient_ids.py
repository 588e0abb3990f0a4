"""Ambiguous identifiers in sources: PatientIDs that may belong to one patient, and studies with several patients."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from medvit.records import Candidate, Identity, Patient, patients_of


def spelled_alike(patients: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of PatientIDs that differ only in spaces, case, character width or leading zeros.

    Each group is sorted.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for patient in patients:
        groups[_plain(patient)].add(patient)
    return sorted(tuple(sorted(group)) for plain, group in groups.items() if plain and len(group) > 1)


def shared(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the studies that occur with several patients in the (study, patient) `pairs`, each with its patients."""
    patients: dict[str, set[str]] = defaultdict(set)
    for study, patient in pairs:
        patients[study].add(patient)
    return {study: tuple(sorted(found)) for study, found in sorted(patients.items()) if study and len(found) > 1}


def with_issuers(candidates: Sequence[Candidate], refused: Sequence[Identity] = ()) -> tuple[Candidate, ...]:
    """Return the candidates, with a separate patient per issuer if several issuers assigned the same PatientID.

    Patients that are not identified by their PatientID, but by a path, for example, are unchanged. `refused` are the
    identities of images of the source that are not candidates.
    """
    patients = patients_of([*(candidate.item.identity for candidate in candidates), *refused])
    return tuple(
        replace(one, patient=Patient(patient, is_known_elsewhere=True))
        if one.patient == Patient(one.item.identity.patient, is_known_elsewhere=True) and patient != one.patient.id
        else one
        for one, patient in zip(candidates, patients[: len(candidates)], strict=True)
    )


def with_shared_uids(candidates: Sequence[Candidate], refused: Sequence[Identity] = ()) -> tuple[Candidate, ...]:
    """Return the candidates with `shared_uids`: study and series UIDs that their patient shares with another patient.

    `refused` are the identities of images that are not candidates; the other patient may have only such images.
    """
    own = [one.item.identity for one in candidates]
    whose = patients_of([*own, *refused])
    pairs = {(uid, one.patient.id) for one in candidates for uid in _uids(one.item.identity)}
    taken = {(uid, patient) for one, patient in zip(own, whose, strict=False) for uid in _uids(one)}
    others = {(uid, who) for one, who in zip(refused, whose[len(own) :], strict=True) for uid in _uids(one)}
    of: dict[str, set[str]] = defaultdict(set)
    for uid, patients in shared(pairs | (others - taken)).items():
        for patient in patients:
            of[patient].add(uid)
    return tuple(replace(one, shared_uids=frozenset(of[one.patient.id])) if of else one for one in candidates)


def same_but_for_issuer(candidates: Sequence[Candidate]) -> list[tuple[str, ...]]:
    """Return groups of patients with the same PatientID, which `with_issuers` separated by issuer, sorted."""
    groups: dict[str, set[str]] = defaultdict(set)
    for one in candidates:
        patient = one.item.identity.patient
        if patient and (one.patient.id == patient or one.patient.id.startswith(f"{patient}^^^")):
            groups[patient].add(one.patient.id)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _uids(identity: Identity) -> Iterator[str]:
    yield from filter(None, (identity.study, identity.series))


def _plain(patient: str) -> str:
    text = re.sub(r"\s+", "", unicodedata.normalize("NFKC", patient).casefold())
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", text)
