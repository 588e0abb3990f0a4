"""Metrics of multi-label classification, keyed by name, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.tasks.classification import classification_metrics
from medvit.metrics import ClassMetric, LabelMetric, metrics
from medvit.records import Row
from medvit.statistics.bootstrap import bootstrap

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
    estimates = bootstrap(
        lambda drawn: multilabel_metrics(truth[drawn], probabilities[drawn], labels),
        [row.patient_id for row in rows],
        resamples=resamples,
        seed=seed,
    )
    columns = {f"truth.{name}": truth[:, index] for index, name in enumerate(labels)}
    columns |= {f"p.{name}": probabilities[:, index] for index, name in enumerate(labels)}
    missing = [(int(np.isnan(true).sum()), name) for name, true in zip(labels, truth.T, strict=True)]
    missed = [f"{count} of {len(rows)} images have no {name}; it does not count" for count, name in missing if count]
    return Evaluation("multilabel", labels, tuple(rows), estimates, columns, (*notes, *missed))


def multilabel_metrics(
    truth: Float[Array, "n l"], probabilities: Float[Array, "n l"], labels: Sequence[str]
) -> dict[str, float]:
    """Return the values of every `LabelMetric`, as `KEY`, and of every `ClassMetric` of each label, as `KEY.LABEL`."""
    found = {one.key(): one.compute(truth, probabilities) for one in metrics(LabelMetric)}
    for index, label in enumerate(labels):
        values = _of_label(truth[:, index], probabilities[:, index])
        found |= {f"{key}.{label}": value for key, value in values.items()}
    return found


def _of_label(truth: Float[Array, "n"], probabilities: Float[Array, "n"]) -> dict[str, float]:
    known = ~np.isnan(truth)
    if not known.any():
        usable = [one for one in metrics(ClassMetric) if one.of_all is not None and one.applies(PAIR)]
        return {one.key(): float("nan") for one in usable}
    positive = probabilities[known]
    return classification_metrics(truth[known].astype(int), np.stack([1.0 - positive, positive], axis=1), PAIR)
