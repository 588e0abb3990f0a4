"""Comparison of two sets of embedded images: all variables, the tests, and the distance of b from the images of a."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

from medvit.attributes import finite_number
from medvit.drift.permutations import Shift, permutation_p
from medvit.drift.variables import Variables, of_embeddings, of_names, of_numbers
from medvit.embeddings.cohort import TrainingCohort
from medvit.embeddings.table import EmbeddedImage, EmbeddingTable
from medvit.errors import DataError
from medvit.metrics.auroc import auroc
from medvit.records import CHANNELS

FEWEST_PATIENTS = 10
"""Minimum number of patients in each set."""
MAX_NAMES = 50
"""Maximum number of values of an attribute that is compared by its values."""
StudyScores = Mapping[str, Mapping[str, float]]
"""StudyScores of a model, keyed by study and by name of the score."""


@dataclass(frozen=True)
class OutsideShare:
    """Share of the images of b that are farther from the training images of a than 95 % of its validation images.

    `auroc` is the chance that an image of b is farther than a validation image of a.
    """

    share: float
    auroc: float
    threshold: float


@dataclass(frozen=True)
class DriftResult:
    """Shifts of all variables, the largest first, with the numbers of patients and what was not compared."""

    shifts: tuple[Shift, ...]
    num_patients: tuple[int, int]
    outside: OutsideShare | None
    notes: tuple[str, ...]

    @property
    def alarms(self) -> tuple[Shift, ...]:
        """Shifts whose adjusted p-value is at most the level."""
        return tuple(shift for shift in self.shifts if shift.is_alarm)


def compare_sets(
    a: EmbeddingTable, b: EmbeddingTable, scores: tuple[StudyScores, StudyScores] | None = None, *, seed: int = 0
) -> DriftResult:
    """Return the shifts between two sets of images, tested over patients.

    A patient who is in both sets counts once in each.

    Raises:
        DataError: If a set has too few patients.
    """
    images = (*a.images, *b.images)
    side = np.repeat([0, 1], [len(a), len(b)])
    units = [f"{which} {image.patient_id}" for which, image in zip(side, images, strict=True)]
    _, patient = np.unique(units, return_inverse=True)
    is_b = np.zeros(int(patient.max()) + 1, dtype=bool)
    is_b[patient[side == 1]] = True
    counts = int((~is_b).sum()), int(is_b.sum())
    for name, count in zip("ab", counts, strict=True):
        if count < FEWEST_PATIENTS:
            raise DataError(f"the set {name} has {count} patients; expected at least {FEWEST_PATIENTS}")
    notes = []
    shared = len({image.patient_id for image in a.images} & {image.patient_id for image in b.images})
    if shared:
        notes.append(f"{shared} patients are in both sets: the p-values are only approximate")
    variables = of_embeddings(np.concatenate([a.vectors, b.vectors]), patient)
    variables = variables.beside(_described(images, patient, notes))
    if scores is not None:
        variables = variables.beside(_scored(images, side, patient, scores, notes))
    effects, p = permutation_p(variables.values, is_b, seed=seed)
    found = [Shift(*one) for one in zip(variables.names, variables.groups, effects.tolist(), p.tolist(), strict=True)]
    found.sort(key=lambda shift: (shift.p, -abs(shift.effect)))
    return DriftResult(tuple(found), counts, _outside(a, b, notes), tuple(notes))


def _described(images: Sequence[EmbeddedImage], patient: Int[Array, "m"], notes: list[str]) -> Variables:
    """Return the attributes and labels of images, as numbers if all of their values are, and by value if not."""
    groups = {
        "attributes": [{"modality": i.modality, **i.attributes} for i in images],
        "labels": [i.labels for i in images],
    }
    found = Variables((), (), np.zeros((int(patient.max()) + 1, 0)))
    for group, pairs in groups.items():
        numbers: dict[str, list[float]] = {}
        names: dict[str, list[str | None]] = {}
        for key in sorted({key for one in pairs for key in one if key != CHANNELS}):
            texts = [one.get(key) for one in pairs]
            values = {text for text in texts if text}
            if len(values) > 2 and all(finite_number(text) is not None for text in values):
                numbers[key] = [float(text) if text else np.nan for text in texts]
            elif len(values) <= MAX_NAMES:
                names[key] = texts
            else:
                notes.append(f"{key} has {len(values)} values, and is not compared")
        found = found.beside(of_numbers(numbers, patient, group)).beside(of_names(names, patient, group))
    return found


def _scored(
    images: Sequence[EmbeddedImage],
    side: Int[Array, "m"],
    patient: Int[Array, "m"],
    scores: tuple[StudyScores, StudyScores],
    notes: list[str],
) -> Variables:
    each = [scores[which].get(image.study_id, {}) for which, image in zip(side, images, strict=True)]
    missing = sum(not one for one in each)
    if missing == len(each):
        raise DataError(
            "no study of the scores is among the embedded images; predict with the key file that ingest used, so that "
            "studies have the same pseudonyms"
        )
    if missing:
        notes.append(f"{missing} of {len(each)} images have no scores")
    names = sorted({name for one in each for name in one})
    return of_numbers({name: [one.get(name, np.nan) for one in each] for name in names}, patient, "scores")


def _outside(a: EmbeddingTable, b: EmbeddingTable, notes: list[str]) -> OutsideShare | None:
    try:
        cohort = TrainingCohort.of(a)
    except DataError as error:
        notes.append(f"the distance of b from the images of a is not reported: {error}")
        return None
    known = cohort.distances(a.where(lambda image: image.split == "val").vectors)
    new = cohort.distances(b.vectors)
    return OutsideShare(float(cohort.is_outside(new).mean()), separation(known, new), cohort.threshold)


def separation(known: Float[Array, "n"], new: Float[Array, "m"]) -> float:
    """Return the AUROC of distances for distinguishing new images from known ones."""
    is_new: Bool[Array, "k"] = np.repeat([False, True], [len(known), len(new)])
    return auroc(is_new, np.concatenate([known, new]))
