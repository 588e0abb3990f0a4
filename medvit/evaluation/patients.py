"""Slides beside their patients, who have the mean of the probabilities of all their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.evaluation import Estimate, Evaluation
from medvit.evaluation.bootstrap import bootstrap
from medvit.evaluation.classification import classification_metrics, evaluate_classes
from medvit.evaluation.levels import answers, of_patients
from medvit.samples import Row

PREFIX = "patient_"
"""Before the name of a metric of patients."""


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
    patients, num_patients = of_patients(answers(rows, truth, probabilities)), len({row.patient_id for row in rows})
    if num_patients == len(rows) or not len(patients):
        return images
    estimates: Mapping[str, Estimate] = bootstrap(
        lambda drawn: classification_metrics(patients.truth[drawn], patients.probabilities[drawn], classes),
        patients.patients,
        resamples=resamples,
        seed=seed,
    )
    told = [f"{len(patients)} patients: each has the mean of the probabilities of its images"]
    if num_mixed := num_patients - len(patients):
        told.append(f"{num_mixed} patients have images of several classes and do not count as patients")
    metrics = dict(images.metrics) | {f"{PREFIX}{name}": estimate for name, estimate in estimates.items()}
    return replace(images, metrics=metrics, notes=(*images.notes, *told))
