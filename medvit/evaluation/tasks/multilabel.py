"""Metrics of multi-label classification, keyed by name, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.tasks.classification import class_estimates, class_samples, classification_metrics
from medvit.metrics import Classified, ClassMetric, LabelMetric, metrics
from medvit.records import Row
from medvit.statistics import UNDEFINED, Estimate, MetricSample
from medvit.statistics.bootstrap import AGREEMENT, bootstrap
from medvit.statistics.mean import mean_of_limits

PAIR = ("negative", "positive")


def evaluate_labels(
    rows: Sequence[Row],
    truth: Float[Array, "n l"],
    probabilities: Float[Array, "n l"],
    labels: tuple[str, ...],
    *,
    resamples: int,
    seed: int,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Return all multi-label metrics with intervals over patients; the truth is 1, 0, or NaN for a missing label."""
    patients = [row.patient_id for row in rows]
    estimates = label_estimates(truth, probabilities, labels, patients, resamples=resamples, seed=seed)
    columns = {f"truth.{name}": truth[:, index] for index, name in enumerate(labels)}
    columns |= {f"p.{name}": probabilities[:, index] for index, name in enumerate(labels)}
    missing = [(int(np.isnan(true).sum()), name) for name, true in zip(labels, truth.T, strict=True)]
    missed = [f"{count} of {len(rows)} images have no {name}; it does not count" for count, name in missing if count]
    return Evaluation("multilabel", labels, tuple(rows), estimates, columns, (*notes, *missed))


def label_estimates(
    truth: Float[Array, "n l"],
    probabilities: Float[Array, "n l"],
    labels: Sequence[str],
    patients: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    """Return all multi-label metrics with intervals over patients: in closed form where there is one, else bootstrap.

    The metrics of a label are those of the images on which it is known.
    """
    known = metrics(LabelMetric)
    found = bootstrap(
        lambda drawn: {one.key(): one.compute(truth[drawn], probabilities[drawn]) for one in known},
        patients,
        resamples=resamples,
        seed=seed,
    )
    for one in known:
        if one.sample is not None:
            found[one.key()] = one.sample(truth, probabilities, patients).estimate()
        elif one.parts is not None and found[one.key()].method == AGREEMENT:
            found[one.key()] = mean_of_limits([p.estimate() for p in one.parts(truth, probabilities, patients)])
    for index, label in enumerate(labels):
        own = _of_label_estimates(truth[:, index], probabilities[:, index], patients, resamples, seed)
        found |= {f"{key}.{label}": estimate for key, estimate in own.items()}
    return found


def multilabel_metrics(
    truth: Float[Array, "n l"], probabilities: Float[Array, "n l"], labels: Sequence[str]
) -> dict[str, float]:
    """Return the values of every `LabelMetric`, as `KEY`, and of every `ClassMetric` of each label, as `KEY.LABEL`."""
    found = {one.key(): one.compute(truth, probabilities) for one in metrics(LabelMetric)}
    for index, label in enumerate(labels):
        values = _of_label(truth[:, index], probabilities[:, index])
        found |= {f"{key}.{label}": value for key, value in values.items()}
    return found


def label_samples(
    truth: Float[Array, "n l"], probabilities: Float[Array, "n l"], labels: Sequence[str], patients: Sequence[str]
) -> dict[str, MetricSample]:
    """Return the samples of metrics with intervals in closed form, keyed as by `multilabel_metrics`."""
    of_all = {one.key(): one.sample for one in metrics(LabelMetric) if one.sample is not None}
    found = {key: sample(truth, probabilities, patients) for key, sample in of_all.items()}
    for index, label in enumerate(labels):
        known = np.flatnonzero(~np.isnan(truth[:, index]))
        images = _classified(truth[known, index], probabilities[known, index])
        samples = class_samples(images, [patients[int(image)] for image in known]) if known.size else {}
        found |= {f"{key}.{label}": sample for key, sample in samples.items()}
    return found


def _of_label_estimates(
    truth: Float[Array, "n"], probabilities: Float[Array, "n"], patients: Sequence[str], resamples: int, seed: int
) -> dict[str, Estimate]:
    known = np.flatnonzero(~np.isnan(truth))
    if not known.size:
        return dict.fromkeys(_of_label(truth, probabilities), UNDEFINED)
    images = _classified(truth[known], probabilities[known])
    return class_estimates(images, [patients[int(image)] for image in known], resamples=resamples, seed=seed)


def _of_label(truth: Float[Array, "n"], probabilities: Float[Array, "n"]) -> dict[str, float]:
    known = ~np.isnan(truth)
    if not known.any():
        usable = [one for one in metrics(ClassMetric) if one.of_all is not None and one.applies(PAIR)]
        return {one.key(): float("nan") for one in usable}
    images = _classified(truth[known], probabilities[known])
    return classification_metrics(images.truth, images.probabilities, PAIR)


def _classified(truth: Float[Array, "n"], probabilities: Float[Array, "n"]) -> Classified:
    """Return a label with known truth as a classification with two classes."""
    return Classified(truth.astype(int), np.stack([1.0 - probabilities, probabilities], axis=1), PAIR)
