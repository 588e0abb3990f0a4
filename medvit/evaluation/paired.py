"""Comparison of two models on the same images: differences of their metrics, with intervals and tests over patients."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy import ndarray as Array

from medvit.errors import DataError
from medvit.evaluation import Evaluation
from medvit.evaluation.positive import index_of
from medvit.evaluation.tasks.classification import class_samples, classification_metrics
from medvit.evaluation.tasks.multilabel import label_samples, multilabel_metrics
from medvit.evaluation.tasks.regression import regression_metrics
from medvit.evaluation.tasks.segmentation import mask_metrics
from medvit.evaluation.tasks.survival import outcomes_of, survival_metrics, with_times
from medvit.metrics import Classified, MaskMetric, metric_of
from medvit.statistics import MetricSample
from medvit.statistics.bootstrap import bootstrap_differences
from medvit.statistics.differences import Difference, corrected, tested

log = logging.getLogger("medvit")

POOLED = ("overlap_voxels", "counted_voxels")
"""Columns from which pooled metrics are computed; reports of earlier versions do not have them."""
MetricTable = Mapping[str, Array]
"""The columns of a `predictions.parquet`, `image_id` and `patient_id` among them."""


def compare(evaluation: Evaluation, other: MetricTable, *, resamples: int, seed: int) -> dict[str, Difference]:
    """Return the metrics of an evaluation minus those of another report, on the images that both predict.

    P-values are corrected for the number of metrics.

    Raises:
        DataError: If they share no image, have different metrics, or disagree about the truth.
    """
    classes, positive = evaluation.classes, index_of(evaluation.positive, evaluation.classes)
    found = paired_differences(
        evaluation.table,
        other,
        classes,
        resamples=resamples,
        seed=seed,
        positive=positive,
        horizons=evaluation.horizons,
    )
    return corrected(found)


def paired_differences(
    one: MetricTable,
    other: MetricTable,
    classes: Sequence[str],
    *,
    resamples: int,
    seed: int,
    positive: int = 1,
    horizons: Sequence[float] = (),
) -> dict[str, Difference]:
    """Return metrics of `one` minus those of `other`, on the images that both predict.

    P-values are those of a test in closed form where there is one, else of the bootstrap. They are not corrected for
    the number of metrics.

    Raises:
        DataError: If they share no image, have different metrics, or disagree about the truth.
    """
    places = {image: index for index, image in enumerate(other["image_id"])}
    mine = np.array([index for index, image in enumerate(one["image_id"]) if image in places], dtype=int)
    if mine.size == 0:
        raise DataError("the two reports share no image; evaluate both models on the same split of the same dataset")
    if "event" in one and "event" in other:
        other = with_times(other, classes)
    graded = [_is_graded(table) for table in (one, other)]
    one, other = _comparable(*(_without_class(table) for table in (one, other)))
    theirs = np.array([places[image] for image in one["image_id"][mine]], dtype=int)
    truths = [name for name in one if name.partition(".")[0] in ("truth", "event", "true_voxels", "counted_voxels")]
    if any(_differ(one[name][mine], other[name][theirs]) for name in truths):
        raise DataError(
            "the two reports contain different true labels for the same images; evaluate both models on the same "
            "dataset"
        )
    patients = [str(patient) for patient in one["patient_id"][mine]]

    def difference(drawn: Array) -> dict[str, float]:
        first = _metrics(one, mine[drawn], classes, positive, horizons, is_graded=graded[0])
        second = _metrics(other, theirs[drawn], classes, positive, horizons, is_graded=graded[1])
        return {name: first[name] - second[name] for name in first}

    found = bootstrap_differences(difference, patients, resamples=resamples, seed=seed)
    samples = [
        _samples(table, indices, classes, positive, patients, is_graded=is_graded)
        for table, indices, is_graded in zip((one, other), (mine, theirs), graded, strict=True)
    ]
    tests = {key: sample.compared(samples[1][key]) for key, sample in samples[0].items()}
    found |= {key: tested(found[key], test, len(set(patients))) for key, test in tests.items() if test is not None}
    return {
        key: value if _is_fraction(key) else replace(value, num_patients_needed=None) for key, value in found.items()
    }


def _is_fraction(key: str) -> bool:
    """Return whether a metric is at most 1, such as AUROC, so that a difference of 0.01 has a meaning."""
    metric = metric_of(key)
    return metric is not None and bool(metric.higher_is_better) and metric.task != "regression"


def _differ(one: Array, other: Array) -> bool:
    """Return whether two columns differ; NaN at the same place in both, as for a missing label, is not a difference."""
    return not np.array_equal(one, other, equal_nan=one.dtype.kind == "f" and other.dtype.kind == "f")


def _comparable(one: MetricTable, other: MetricTable) -> tuple[MetricTable, MetricTable]:
    """Return both tables, reduced to the columns that both have.

    A metric that only one of them has, because another version of medvit wrote it, is excluded with a warning.
    """
    measured = [{_mask_metric(name) for name in table} for table in (one, other)]
    unequal = set(one) ^ set(other)
    if any(_mask_metric(name) in (measured[0] & measured[1]) | {""} for name in unequal):
        raise DataError("the two reports have different metrics; compare models with the same task and classes")
    if unequal:
        left_out = ", ".join(sorted({_mask_metric(name) for name in unequal}))
        log.warning("only one of the two reports has %s, which is not compared", left_out)
    shared = [name for name in one if name in other]
    return {name: one[name] for name in shared}, {name: other[name] for name in shared}


def _is_graded(table: MetricTable) -> bool:
    """Return whether a table is of an ordinal classification, which alone has predicted classes and probabilities."""
    return "predicted" in table and "event" not in table and any(name.startswith("p.") for name in table)


def _without_class(table: MetricTable) -> MetricTable:
    """Return a table without predicted classes, so that ordinal and other classifications can be compared."""
    return {name: table[name] for name in table if name != "predicted"} if _is_graded(table) else table


def _mask_metric(column: str) -> str:
    """Return the name of the segmentation metric whose values a column contains; empty for other columns."""
    if column.partition(".")[0] in POOLED:
        return "pooled metrics"
    metric = metric_of(column)
    return metric.name if isinstance(metric, MaskMetric) else ""


def _samples(
    table: MetricTable,
    indices: Array,
    classes: Sequence[str],
    positive: int,
    patients: Sequence[str],
    *,
    is_graded: bool,
) -> dict[str, MetricSample]:
    """Return the samples of metrics with a test in closed form, of the images at these indices."""
    if any(name.startswith("truth.") for name in table):
        return label_samples(*_labels(table, indices, classes), classes, patients)
    if "truth" in table and "predicted" not in table and "event" not in table:
        truth, probabilities = _classes(table, indices, classes)
        return class_samples(Classified(truth, probabilities, classes, positive, is_graded), patients)
    return {}


def _labels(table: MetricTable, indices: Array, classes: Sequence[str]) -> tuple[Array, Array]:
    truth, probabilities = (
        np.stack([table[f"{key}.{name}"][indices] for name in classes], axis=1) for key in ("truth", "p")
    )
    return truth, probabilities


def _classes(table: MetricTable, indices: Array, classes: Sequence[str]) -> tuple[Array, Array]:
    return table["truth"][indices].astype(int), np.stack([table[f"p.{name}"][indices] for name in classes], axis=1)


def _metrics(
    table: MetricTable,
    indices: Array,
    classes: Sequence[str],
    positive: int,
    horizons: Sequence[float],
    *,
    is_graded: bool,
) -> dict[str, float]:
    if "event" in table:
        drawn = {name: values[indices] for name, values in table.items()}
        return survival_metrics(outcomes_of(drawn, classes, horizons))
    if "predicted" in table:
        return regression_metrics(table["truth"][indices], table["predicted"][indices])
    if any(name.startswith("truth.") for name in table):
        return multilabel_metrics(*_labels(table, indices, classes), classes)
    if "truth" in table:
        return classification_metrics(*_classes(table, indices, classes), classes, positive, is_graded=is_graded)
    return mask_metrics({name: values[indices] for name, values in table.items()})
