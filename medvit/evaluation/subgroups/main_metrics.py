"""Main metrics of each task, by which subgroups are compared.

Metrics that depend on the frequency of the classes or on the spread of a number, such as average precision and R2, are
not among them, because they differ between groups even if the model is equally good in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.positive import index_of
from medvit.evaluation.samples import samples_of
from medvit.evaluation.tasks.classification import classified
from medvit.evaluation.tasks.segmentation import mean_of_defined
from medvit.evaluation.tasks.survival import outcomes_of
from medvit.metrics import ClassMetric, LabelMetric, SurvivalMetric, ValueMetric, metrics
from medvit.statistics import MetricSample
from medvit.statistics.bootstrap import Statistic

MAIN: Mapping[str, tuple[str, ...]] = {
    "classification": ("auroc", "balanced_accuracy", "sensitivity", "specificity"),
    "classes": ("auroc", "balanced_accuracy", "accuracy"),
    "ordinal": ("grade_error", "kappa_quadratic", "balanced_accuracy"),
    "multilabel": ("auroc_macro", "auroc_micro"),
    "regression": ("mae", "rmse"),
    "survival": ("c_index", "integrated_brier"),
    "segmentation": ("dice", "nsd", "hd95_mm", "hd95_px"),
}
"""Main metrics of each kind of evaluation, the most important one first."""


def main_keys(evaluation: Evaluation) -> tuple[str, ...]:
    """Return the keys of the main metrics that an evaluation has."""
    kind = evaluation.kind
    if kind == "classification":
        kind = "ordinal" if evaluation.is_graded else "classification" if len(evaluation.classes) == 2 else "classes"
    return tuple(key for key in MAIN.get(kind, ()) if key in evaluation.metrics)


def main_metrics(evaluation: Evaluation, keys: Sequence[str]) -> Statistic:
    """Return a function that computes metrics of the images at given indices."""
    columns, classes = evaluation.columns, evaluation.classes
    if evaluation.kind == "segmentation":
        return lambda drawn: {key: mean_of_defined(columns[key][drawn]) for key in keys}
    if evaluation.kind == "regression":
        of_values = [one for one in metrics(ValueMetric) if one.key() in keys]
        truth, predicted = columns["truth"], columns["predicted"]
        return lambda drawn: {
            one.key(): one.compute(truth[drawn], predicted[drawn]) if len(drawn) else np.nan for one in of_values
        }
    if evaluation.kind == "survival":
        of_times = [one for one in metrics(SurvivalMetric) if one.of_all is not None and one.key() in keys]
        outcomes = outcomes_of(columns, classes, evaluation.horizons)
        return lambda drawn: {
            one.key(): one.of_all(outcomes.at(drawn)) if one.of_all and len(drawn) else np.nan for one in of_times
        }
    if evaluation.kind == "multilabel":
        of_labels = [one for one in metrics(LabelMetric) if one.key() in keys]
        true, given = evaluation.label_truth, evaluation.probabilities
        return lambda drawn: {one.key(): one.compute(true[drawn], given[drawn]) for one in of_labels}
    return _of_classes(evaluation, keys)


def main_samples(evaluation: Evaluation, those: Int[Array, "m"], keys: Sequence[str]) -> dict[str, MetricSample]:
    """Return the samples of those main metrics of some images that have an interval in closed form."""
    return {key: sample for key, sample in samples_of(evaluation, those).items() if key in keys}


def _of_classes(evaluation: Evaluation, keys: Sequence[str]) -> Statistic:
    chosen = [one for one in metrics(ClassMetric) if one.of_all is not None and one.key() in keys]
    images = classified(evaluation)

    def values(drawn: Array) -> dict[str, float]:
        if not len(drawn):
            return {one.key(): np.nan for one in chosen}
        part = images.at(drawn)
        return {one.key(): one.of_all(part) for one in chosen if one.of_all is not None}

    return values


def positives(evaluation: Evaluation) -> Bool[Array, "n"] | None:
    """Return which images are positive: of the positive class, with an event, a positive label, or a structure.

    None for tasks without a positive class.
    """
    columns = evaluation.columns
    if evaluation.kind == "segmentation":
        sizes = [values for name, values in columns.items() if name.startswith("true_voxels.")]
        return np.nansum(sizes, axis=0) > 0 if sizes else None
    if evaluation.kind == "survival":
        return columns["event"] == 1.0
    if evaluation.kind == "multilabel":
        return (evaluation.label_truth == 1.0).any(axis=1)
    if evaluation.kind == "classification" and evaluation.positive:
        return evaluation.truth == index_of(evaluation.positive, evaluation.classes)
    return None
