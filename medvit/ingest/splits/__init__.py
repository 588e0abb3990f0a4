"""Stable splits into train, val, calibration and test by patient, from a hash.

The split of a patient depends only on the patient's identifier, a salt (`splits.salt`) and the fractions of the splits.
Adding patients therefore changes no existing assignment, and every class has the same expected fraction in each split.
The drawback is that a small class may be split unevenly; `better_salt` then finds another salt.

Official splits are kept. If the official splits lack val, calibration or test, the missing split is drawn from the
official training split by the same hash.

Instead of a fraction, the test split can be all patients of some sites, or all patients with a study since a date
(`origin`). The hash then divides the others into train and val.

Patients whose images are near duplicates can be kept together: the hash of one of them then determines the split of
all.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from medvit.config import Config
from medvit.ingest.splits.origin import HeldOut
from medvit.records import Candidate, Refusal, Split

log = logging.getLogger("medvit")

LEAKAGE = "leakage"
_ALL = ("", "")
PROTECTED: tuple[Split, ...] = ("test", "calibration", "val", "train")
"""Splits by priority: a patient of several official splits remains in the first of these."""

NUM_SALTS = 100
"""Number of salts that are tried if the one in use gives uneven splits."""
UNLUCKY_SIGMAS = 2.5
"""Deviation of a class from its expected count, in binomial standard deviations, above which another salt is suggested.
"""
MAX_PATIENTS = 10_000
"""Number of patients above which splits are even with any salt."""


class SplitConfig(Config):
    """Division of patients into train, val, calibration and test. Official splits, those of the source, are kept."""

    val: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of patients for validation, which is used for early stopping and model selection."""
    test: float = Field(default=0.2, ge=0, le=1)
    """Fraction of patients for testing. The value 1 puts all images into test, as for an external cohort, even if
    folders or a table assign other splits.
    """
    test_sites: tuple[str, ...] = Field(default=(), json_schema_extra={"private": True})
    """Institutions whose patients form the test split: DICOM InstitutionName, or what `scanning.site_from` captures, or
    their pseudonyms (h-...). All other patients are divided into train and val. A patient with images of such an
    institution and of another one is in test as a whole. Names are not stored in the dataset.
    """
    test_since: date | None = Field(default=None, json_schema_extra={"private": True})
    """Date such as 2024-01-01: patients with a study on this day or later form the test split, with all of their
    images. All other patients are divided into train and val. The date is not stored in the dataset.
    """
    calibration: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of patients for `medvit calibrate`, which are used for nothing else. They are taken from the training
    patients: those of val and test remain the same.
    """
    salt: int = 0
    """Seed of the division: another number divides the patients differently."""
    keep_together: Literal["patients", "near_duplicates"] = "patients"
    """Images that must be in the same split. patients: all images of a patient. near_duplicates: also all images of
    patients who have identical or near-duplicate images. Official splits never change; near duplicates in different
    official splits are only reported.
    """

    @model_validator(mode="before")
    @classmethod
    def _leaves_none_to_val(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if value.get("test_sites") or value.get("test_since"):
            return {"test": 0.0, **value}
        return {"val": 0.0, **value} if str(value.get("test")) in ("1", "1.0") else value

    @model_validator(mode="after")
    def _leaves_some_to_train(self) -> Self:
        held = [key for key in ("test_sites", "test_since") if getattr(self, key)]
        if len(held) > 1:
            raise ValueError("test_sites and test_since are both given; give one of them")
        if held and self.test:
            raise ValueError(
                f"{held[0]} and test are both given, and {held[0]} decides about the test split; remove test"
            )
        taken = self.val + self.calibration + self.test
        if taken >= 1 and (self.val, self.calibration, self.test) != (0, 0, 1):
            raise ValueError(
                f"val, calibration and test together have a fraction of {taken:g} of the patients; expected less than "
                "1, so that patients remain for training"
            )
        return self


@dataclass(frozen=True)
class SplitAssignment:
    """Candidates with their splits, and refusals.

    An image is refused if its patient also has images in a stricter official split: test is stricter than calibration,
    calibration than val, and val than train.
    """

    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]


def assign(
    candidates: Sequence[Candidate],
    config: SplitConfig,
    joined: Mapping[str, str] | None = None,
    held: HeldOut | None = None,
) -> SplitAssignment:
    """Assign a split to every candidate, so that no patient is in two splits.

    `joined` maps each patient of a group that is kept together to the patient whose hash determines the split of the
    group. Official splits are kept. A patient without an official split gets the official split of another patient in
    the group, if there is one. The patients in `held`, and those in their groups, are assigned to test, and all others
    to train or val by their hash, whatever the official splits.
    """
    if held is not None:
        return _around(held, candidates, config, joined)
    if config.test == 1:
        moved = sum(candidate.split in ("train", "val") for candidate in candidates)
        if moved:
            log.warning(
                "splits.test=1 assigns %d images to test although their folder or table assigns train or val", moved
            )
        return SplitAssignment(tuple(replace(candidate, split="test") for candidate in candidates), ())
    official = _official_by_patient(candidates)
    together = joined or {}
    of_groups = _official_of_groups(official, together)
    hashed_as = _hashed_as(candidates)
    cut = [name for name in PROTECTED[:-1] if not any(name in splits for splits in official.values())]
    assigned: list[Candidate] = []
    refusals: list[Refusal] = []
    for candidate in candidates:
        patient = together.get(candidate.patient.id, candidate.patient.id)
        told = official.get(candidate.patient.id) or of_groups.get(patient)
        hashed = split_of(hashed_as.get(patient, patient), config)
        if told is None:
            assigned.append(replace(candidate, split=hashed))
            continue
        kept = next(name for name in PROTECTED if name in told)
        if candidate.split not in (None, kept):
            reason = f"the patient is in the official {kept} split too; this {candidate.split} image is excluded"
            refusals.append(candidate.refused(LEAKAGE, reason))
        else:
            assigned.append(replace(candidate, split=hashed if kept == "train" and hashed in cut else kept))
    if not official and (joined is not None or config.keep_together == "patients"):
        _tell_if_unlucky(candidates, config, together)
    return SplitAssignment(tuple(assigned), tuple(refusals))


def _around(
    held: HeldOut, candidates: Sequence[Candidate], config: SplitConfig, joined: Mapping[str, str] | None
) -> SplitAssignment:
    """Assign held-out patients to test and all others by their hash; official splits are ignored, with a warning."""
    together, hashed_as = joined or {}, _hashed_as(candidates)
    groups = {together[patient] for patient in held.patients if patient in together}
    assigned = []
    for candidate in candidates:
        patient = together.get(candidate.patient.id, candidate.patient.id)
        is_held = candidate.patient.id in held.patients or patient in groups
        split = "test" if is_held else split_of(hashed_as.get(patient, patient), config)
        assigned.append(replace(candidate, split=split))
    pairs = list(zip(candidates, assigned, strict=True))
    moved = sum(one.split is not None and one.split != after.split for one, after in pairs)
    if moved:
        log.warning(
            "splits.test_sites or splits.test_since assigns %d images to another split than their folder or table",
            moved,
        )
    if joined is not None or config.keep_together == "patients":
        _tell_if_unlucky([one for one, after in pairs if after.split != "test"], config, together)
    return SplitAssignment(tuple(assigned), ())


def split_of(patient: str, config: SplitConfig) -> Split:
    """Return the split that the hash of a patient's identifier determines."""
    digest = hashlib.sha256(f"{config.salt}\0{patient}".encode(errors="surrogateescape")).digest()
    position = int.from_bytes(digest[:8]) / 2**64
    if position < config.test:
        return "test"
    if position < config.test + config.val:
        return "val"
    return "calibration" if position < config.test + config.val + config.calibration else "train"


def _hashed_as(candidates: Iterable[Candidate]) -> dict[str, str]:
    """Return the identifier to hash for each patient.

    It does not contain the issuer: a second issuer in the source must not change any split.
    """
    found = {}
    for candidate in candidates:
        own, patient = candidate.item.identity.patient, candidate.patient.id
        found[patient] = own if own and patient.startswith(f"{own}^^^") else patient
    return found


def better_salt(
    candidates: Iterable[Candidate], config: SplitConfig, joined: Mapping[str, str] | None = None
) -> int | None:
    """Return a salt that distributes the classes more evenly; None if the current one distributes them well enough.

    Only images without official splits count, because official splits do not depend on the salt; `joined` patients
    count as one.
    """
    strata = _strata(candidates, joined or {})
    if len(strata.get(_ALL, ())) > MAX_PATIENTS or _deviation(strata, config) <= UNLUCKY_SIGMAS:
        return None
    best = min(range(NUM_SALTS), key=lambda salt: _deviation(strata, config.model_copy(update={"salt": salt})))
    return None if best == config.salt else best


def _tell_if_unlucky(candidates: Iterable[Candidate], config: SplitConfig, joined: Mapping[str, str]) -> None:
    salt = better_salt(candidates, config, joined)
    if salt is not None:
        log.warning(
            "the classes are distributed unevenly over the splits; splits.salt=%d would distribute them more evenly",
            salt,
        )


def _official_by_patient(candidates: Sequence[Candidate]) -> Mapping[str, set[Split]]:
    official: dict[str, set[Split]] = defaultdict(set)
    for candidate in candidates:
        if candidate.split is not None:
            official[candidate.patient.id].add(candidate.split)
    return official


def _official_of_groups(official: Mapping[str, set[Split]], joined: Mapping[str, str]) -> Mapping[str, set[Split]]:
    """Return the official splits of the patients in each group of joined patients.

    The key of a group is the patient whose hash determines its split.
    """
    found: dict[str, set[Split]] = defaultdict(set)
    for patient, splits in official.items():
        if patient in joined:
            found[joined[patient]] |= splits
    return found


def _strata(candidates: Iterable[Candidate], joined: Mapping[str, str]) -> Mapping[tuple[str, str], set[str]]:
    """Return one set of patients for each (label, class), and one with all patients.

    A group of joined patients is represented by the patient whose hash determines its split.
    """
    candidates = list(candidates)
    hashed_as = _hashed_as(candidates)
    strata: dict[tuple[str, str], set[str]] = defaultdict(set)
    for candidate in candidates:
        for stratum in (_ALL, *candidate.labels.items()):
            patient = joined.get(candidate.patient.id, candidate.patient.id)
            strata[stratum].add(hashed_as.get(patient, patient))
    return strata


def _deviation(strata: Mapping[tuple[str, str], set[str]], config: SplitConfig) -> float:
    """Return how unevenly patients are split: the largest deviation of all strata and of all splits but train.

    A deviation is that of the number of patients from its expected value, in binomial standard deviations.
    """
    worst = 0.0
    for patients in strata.values():
        splits = [split_of(patient, config) for patient in patients]
        fractions: dict[Split, float] = {"val": config.val, "calibration": config.calibration, "test": config.test}
        for name, fraction in fractions.items():
            expected = len(patients) * fraction
            sigma = (expected * (1 - fraction)) ** 0.5
            if sigma > 0:
                worst = max(worst, abs(splits.count(name) - expected) / sigma)
    return worst
