"""Metrics of regression from true and predicted numbers, keyed by name, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.metrics import ValueMetric, metrics
from medvit.records import Row
from medvit.statistics.bootstrap import bootstrap


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
    estimates = bootstrap(
        lambda drawn: regression_metrics(truth[drawn], predicted[drawn]),
        [row.patient_id for row in rows],
        resamples=resamples,
        seed=seed,
    )
    columns = {"truth": truth, "predicted": predicted}
    return Evaluation("regression", (label,), tuple(rows), estimates, columns, tuple(notes))


def regression_metrics(truth: Float[Array, "n"], predicted: Float[Array, "n"]) -> dict[str, float]:
    """Return the value of every `ValueMetric`, keyed by metric."""
    return {one.key(): one.compute(truth, predicted) for one in metrics(ValueMetric)}
