"""Evaluation of a multi-task model: each label by the metrics of its own task, on the images with this label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.errors import DataError
from medvit.evaluation import Evaluation
from medvit.evaluation.paired import MetricTable, paired_differences
from medvit.evaluation.positive import index_of
from medvit.metrics.confusion import median_grade
from medvit.records import Row
from medvit.statistics import Estimate
from medvit.statistics.differences import Difference, corrected
from medvit.tasks import Target

KEYS = ("image_id", "patient_id")


def merged(
    rows: Sequence[Row],
    truth: Float[Array, "n l"],
    predictions: Float[Array, "n k"],
    target: Target,
    parts: Mapping[str, Evaluation],
    notes: Sequence[str],
) -> Evaluation:
    """Return the evaluation of all labels, merged from the evaluation of each label (`parts`).

    Metrics are named `METRIC.LABEL` and `METRIC.LABEL.CLASS`. `truth` (N, L) contains, for each label, the index of the
    true class or the true number; NaN if the label is missing. `predictions` (N, K) contains the predicted
    probabilities and numbers of all labels.
    """
    metrics: dict[str, Estimate] = {}
    columns: dict[str, Array] = {}
    missed = []
    for part, true in zip(target.parts, truth.T, strict=True):
        label = part.target.label
        columns[f"truth.{label}"] = true
        prefix = "predicted" if part.task == "regression" else "p"
        span = target.spans[label]
        if part.task == "ordinal":
            columns[f"predicted.{label}"] = median_grade(predictions[:, span])
        columns |= {f"{prefix}.{name}": predictions[:, span][:, n] for n, name in enumerate(part.names)}
        num_missing = int(np.isnan(true).sum())
        if num_missing:
            missed.append(f"{num_missing} of {len(rows)} images have no {label}; it does not count for them")
        if label in parts:
            metrics |= {_of_label(key, label): estimate for key, estimate in parts[label].metrics.items()}
    breakdowns = tuple(
        replace(one, title=f"{label}: {one.title}") for label, part in parts.items() for one in part.breakdowns
    )
    return Evaluation(
        "multitask",
        target.classes,
        tuple(rows),
        metrics,
        columns,
        (*notes, *missed),
        breakdowns=breakdowns,
        parts=parts,
    )


def compare_labels(evaluation: Evaluation, other: MetricTable, *, resamples: int, seed: int) -> dict[str, Difference]:
    """Return the metrics of an evaluation minus those of another report of the same labels.

    Each label is compared on the images that both reports contain and that have the label. P-values are corrected for
    the number of metrics of all labels.

    Raises:
        DataError: If the two reports share no image, have different metrics, or disagree about the truth.
    """
    found: dict[str, Difference] = {}
    for label, part in evaluation.parts.items():
        mine, theirs = (_table_of(one, label) for one in (evaluation.table, other))
        positive = index_of(part.positive, part.classes)
        try:
            own = paired_differences(mine, theirs, part.classes, resamples=resamples, seed=seed, positive=positive)
        except DataError as error:
            raise DataError(f"{label}: {error}") from None
        found |= {_of_label(key, label): estimate for key, estimate in own.items()}
    return corrected(found)


def _table_of(table: MetricTable, label: str) -> MetricTable:
    """Return the part of a table of predictions for one label, with the columns of its own task."""
    names = {f"truth.{label}": "truth", f"predicted.{label}": "predicted"}
    names |= {name: f"p.{name.removeprefix(start)}" for name in table if name.startswith(start := f"p.{label}.")}
    known = ~np.isnan(table[f"truth.{label}"]) if f"truth.{label}" in table else slice(None)
    return {names.get(name, name): table[name][known] for name in table if name in names or name in KEYS}


def _of_label(key: str, label: str) -> str:
    metric, dot, name = key.partition(".")
    return f"{metric}.{label}{dot}{name}"
