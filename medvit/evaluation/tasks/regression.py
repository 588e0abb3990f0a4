"""Metrics of regression from true and predicted numbers, keyed by name, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.metrics import ValueMetric, metrics
from medvit.records import Row
from medvit.statistics import Estimate
from medvit.statistics.bootstrap import bootstrap
from medvit.statistics.mean import few_mean


def evaluate_values(
    rows: Sequence[Row],
    truth: Float[Array, "n"],
    predicted: Float[Array, "n"],
    label: str,
    *,
    resamples: int,
    seed: int,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Return all regression metrics with intervals over patients."""
    patients = [row.patient_id for row in rows]
    estimates = value_estimates(truth, predicted, patients, resamples=resamples, seed=seed)
    columns = {"truth": truth, "predicted": predicted}
    return Evaluation("regression", (label,), tuple(rows), estimates, columns, tuple(notes))


def value_estimates(
    truth: Float[Array, "n"], predicted: Float[Array, "n"], patients: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Estimate]:
    """Return every `ValueMetric` with its interval over patients: bootstrap, or bootstrap-t for few patients."""
    found = bootstrap(
        lambda drawn: regression_metrics(truth[drawn], predicted[drawn]), patients, resamples=resamples, seed=seed
    )
    for one in metrics(ValueMetric):
        if one.of_each is not None:
            values = one.of_each(truth, predicted)
            few = few_mean(values, patients, one.bounds, resamples=resamples, seed=seed)
            found[one.key()] = few or found[one.key()]
    return found


def regression_metrics(truth: Float[Array, "n"], predicted: Float[Array, "n"]) -> dict[str, float]:
    """Return the value of every `ValueMetric`, keyed by metric."""
    return {one.key(): one.compute(truth, predicted) for one in metrics(ValueMetric)}
