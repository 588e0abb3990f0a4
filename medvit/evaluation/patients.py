"""From images to patients: the mean of the probabilities of all images of a patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.evaluation import Estimate, Evaluation
from medvit.evaluation.bootstrap import bootstrap
from medvit.evaluation.classification import classification_metrics, evaluate_classes
from medvit.samples import Row

PREFIX = "patient_"
"""Before the name of a metric of patients."""


@dataclass(frozen=True)
class Patients:
    """What is true and what was found of each patient; `num_mixed` have images of several classes, and are left out."""

    names: tuple[str, ...]
    truth: Int[Array, "n"]
    probabilities: Float[Array, "n l"]
    num_mixed: int = 0


def of_patients(rows: Sequence[Row], truth: Int[Array, "m"], probabilities: Float[Array, "m l"]) -> Patients:
    """The mean of the probabilities of each patient's images."""
    names, member = np.unique([row.patient_id for row in rows], return_inverse=True)
    kept, own_truth, means = [], [], []
    for number, name in enumerate(names):
        images = member == number
        if len(set(truth[images].tolist())) == 1:
            kept.append(str(name))
            own_truth.append(int(truth[images][0]))
            means.append(probabilities[images].mean(axis=0))
    found = np.array(means).reshape(-1, probabilities.shape[1])
    return Patients(tuple(kept), np.array(own_truth, dtype=int), found, len(names) - len(kept))


def evaluate_with_patients(
    rows: Sequence[Row],
    truth: Int[Array, "m"],
    probabilities: Float[Array, "m l"],
    classes: tuple[str, ...],
    *,
    resamples: int,
    seed: int,
    notes: Sequence[str] = (),
) -> Evaluation:
    """All metrics of classification of images and, where a patient has several, of patients under `patient_...`."""
    images = evaluate_classes(rows, truth, probabilities, classes, resamples=resamples, seed=seed, notes=notes)
    patients = of_patients(rows, truth, probabilities)
    if len(patients.names) + patients.num_mixed == len(rows) or not patients.names:
        return images
    estimates: Mapping[str, Estimate] = bootstrap(
        lambda drawn: classification_metrics(patients.truth[drawn], patients.probabilities[drawn], classes),
        patients.names,
        resamples=resamples,
        seed=seed,
    )
    told = [f"{len(patients.names)} patients: each has the mean of the probabilities of its images"]
    if patients.num_mixed:
        told.append(f"{patients.num_mixed} patients have images of several classes and do not count as patients")
    metrics = dict(images.metrics) | {f"{PREFIX}{name}": estimate for name, estimate in estimates.items()}
    return replace(images, metrics=metrics, notes=(*images.notes, *told))
