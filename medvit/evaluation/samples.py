"""Samples of those metrics of an evaluation that have an interval and a test in closed form."""

from __future__ import annotations

from jaxtyping import Int
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.tasks.classification import class_samples, classified
from medvit.evaluation.tasks.multilabel import label_samples
from medvit.statistics import MetricSample


def samples_of(evaluation: Evaluation, those: Int[Array, "m"]) -> dict[str, MetricSample]:
    """Return the samples of the images at these indices, keyed by metric."""
    patients = [evaluation.rows[index].patient_id for index in those]
    if evaluation.kind == "classification":
        return class_samples(classified(evaluation).at(those), patients)
    if evaluation.kind == "multilabel":
        true, given = evaluation.label_truth[those], evaluation.probabilities[those]
        return label_samples(true, given, evaluation.classes, patients)
    return {}
