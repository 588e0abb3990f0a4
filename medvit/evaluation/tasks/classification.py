"""Metrics of classification from probabilities, keyed by name, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.positive import index_of
from medvit.metrics import Classified, ClassMetric, metrics
from medvit.metrics.confusion import median_grade
from medvit.records import Row
from medvit.statistics import Estimate, MetricSample
from medvit.statistics.bootstrap import AGREEMENT, bootstrap
from medvit.statistics.mean import mean_of_limits


def evaluate_classes(
    rows: Sequence[Row],
    truth: Int[Array, "n"],
    probabilities: Float[Array, "n l"],
    classes: tuple[str, ...],
    *,
    resamples: int,
    seed: int,
    notes: Sequence[str] = (),
    positive: int = 1,
    is_graded: bool = False,
) -> Evaluation:
    """Return all classification metrics with intervals over patients.

    If there are two classes, `positive` is the index of the positive one. If the classification is ordinal
    (`is_graded`), there is a column with the predicted class.
    """
    images = Classified(truth, probabilities, classes, positive, is_graded)
    estimates = class_estimates(images, [row.patient_id for row in rows], resamples=resamples, seed=seed)
    columns = {"truth": truth} | ({"predicted": median_grade(probabilities)} if is_graded else {})
    columns |= {f"p.{name}": probabilities[:, index] for index, name in enumerate(classes)}
    named = classes[positive] if len(classes) == 2 else ""
    how: dict[str, Any] = {"positive": named, "is_graded": is_graded}
    return Evaluation("classification", classes, tuple(rows), estimates, columns, tuple(notes), **how)


def classified(evaluation: Evaluation) -> Classified:
    """Return the images of an evaluation of a classification."""
    positive = index_of(evaluation.positive, evaluation.classes)
    truth, probabilities = evaluation.truth, evaluation.probabilities
    return Classified(truth, probabilities, evaluation.classes, positive, evaluation.is_graded)


def class_estimates(images: Classified, patients: Sequence[str], *, resamples: int, seed: int) -> dict[str, Estimate]:
    """Return every `ClassMetric` with its interval over patients: in closed form where there is one, else bootstrap.

    `patients` has the patient of each image.
    """

    def statistic(drawn: Int[Array, "m"]) -> dict[str, float]:
        truth, probabilities = images.truth[drawn], images.probabilities[drawn]
        return classification_metrics(truth, probabilities, images.classes, images.positive, is_graded=images.is_graded)

    found = bootstrap(statistic, patients, resamples=resamples, seed=seed)
    found |= {key: sample.estimate() for key, sample in class_samples(images, patients).items()}
    parts = {one.key(): one.parts for one in metrics(ClassMetric) if one.parts is not None}
    agreed = [key for key in parts if found[key].method == AGREEMENT]
    return found | {key: mean_of_limits([one.estimate() for one in parts[key](images, patients)]) for key in agreed}


def class_samples(images: Classified, patients: Sequence[str]) -> dict[str, MetricSample]:
    """Return the samples of metrics with intervals in closed form, keyed as by `classification_metrics`."""
    found = {}
    for one in metrics(ClassMetric):
        if one.sample is None:
            continue
        if len(images.classes) == 2 or one.of_each is None:
            found[one.key()] = one.sample(images, images.positive, patients)
        else:
            parts = enumerate(images.classes)
            found |= {f"{one.key()}.{name}": one.sample(images, label, patients) for label, name in parts}
    return found


def classification_metrics(
    truth: Int[Array, "n"],
    probabilities: Float[Array, "n l"],
    classes: Sequence[str],
    positive: int = 1,
    *,
    is_graded: bool = False,
) -> dict[str, float]:
    """Return the value of every `ClassMetric`, keyed by metric, for true class indices and probabilities.

    Some metrics compare one class with the rest. With two classes, such a metric is that of the class `positive`. With
    more classes, `KEY.CLASS` is the metric of each class, and `KEY` is their mean (as in MedMNIST's evaluator). The
    mean is undefined if the metric of any class is undefined: it always covers the same classes. `is_graded` is true
    for an ordinal classification.
    """
    images = Classified(truth, probabilities, classes, positive, is_graded)
    known = metrics(ClassMetric)
    found = {one.key(): one.of_all(images) for one in known if one.of_all is not None and one.applies(classes)}
    if len(classes) == 2:
        return found
    for one in known:
        values = () if one.of_each is None else zip(classes, one.of_each(images), strict=True)
        found |= {f"{one.key()}.{name}": float(value) for name, value in values}
    return found
