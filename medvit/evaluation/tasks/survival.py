"""Metrics of survival predictions, keyed by name, with confidence intervals by bootstrap over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.metrics import Outcomes, SurvivalMetric, metrics
from medvit.metrics.survival.integrated_brier import integrated_brier
from medvit.records import Row
from medvit.statistics.bootstrap import bootstrap
from medvit.survival import KaplanMeier, restricted_means, survival_at, survival_times, time_text

NUM_GRID = 50
"""Number of times over which the Brier score is integrated."""


def evaluate_survival(
    rows: Sequence[Row],
    truth: Float[Array, "n 2"],
    probabilities: Float[Array, "n l"],
    names: tuple[str, ...],
    *,
    horizons: Sequence[float],
    resamples: int,
    seed: int,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Return all survival metrics, with confidence intervals by bootstrap over patients.

    `truth` has the columns time and event (1 or 0). `names` are the names of the predicted survival probabilities.
    `horizons` are the times at which metrics of single times, such as `auroc_at`, are computed.
    """
    columns = {"truth": truth[:, 0], "event": truth[:, 1]}
    columns |= {"predicted": restricted_means(survival_times(names), probabilities)}
    columns |= {f"p.{name}": probabilities[:, index] for index, name in enumerate(names)}
    outcomes = outcomes_of(columns, names, horizons)
    estimates = bootstrap(
        lambda drawn: survival_metrics(outcomes.at(drawn)),
        [row.patient_id for row in rows],
        resamples=resamples,
        seed=seed,
    )
    own = (*notes, _note_on_events(outcomes), _note_on_reference(outcomes))
    return Evaluation("survival", names, tuple(rows), estimates, columns, own, horizons=tuple(horizons))


def outcomes_of(table: Mapping[str, Array], names: Sequence[str], horizons: Sequence[float]) -> Outcomes:
    """Return outcomes and predicted curves from the columns of `predictions.parquet`."""
    times, curves = survival_times(names), np.stack([table[f"p.{name}"] for name in names], axis=1)
    grid = np.linspace(0.0, times[-1], NUM_GRID + 1)[1:]
    return Outcomes(
        times=table["truth"].astype(np.float64),
        events=table["event"] == 1.0,
        expected=table["predicted"],
        grid=grid,
        curves=survival_at(times, curves, grid),
        horizons=np.asarray(horizons, dtype=np.float64),
        at_horizons=survival_at(times, curves, horizons),
    )


def survival_metrics(outcomes: Outcomes) -> dict[str, float]:
    """Return the value of each `SurvivalMetric` under its key or, if it is computed at single times, `KEY.TIME`."""
    found = {one.key(): one.of_all(outcomes) for one in metrics(SurvivalMetric) if one.of_all is not None}
    for one in metrics(SurvivalMetric):
        values = () if one.of_each is None else zip(outcomes.horizons, one.of_each(outcomes), strict=True)
        found |= {f"{one.key()}.{time_text(time)}": float(value) for time, value in values}
    return found


def with_times(table: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    """Return columns of `predictions.parquet`, with survival at the times of `names` in place of other times."""
    theirs = [name.removeprefix("p.") for name in table if name.startswith("p.")]
    curves = np.stack([table[f"p.{name}"] for name in theirs], axis=1)
    found = survival_at(survival_times(theirs), curves, survival_times(names))
    kept = {name: values for name, values in table.items() if not name.startswith("p.")}
    return kept | {f"p.{name}": found[:, index] for index, name in enumerate(names)}


def _note_on_events(outcomes: Outcomes) -> str:
    num_events, total = int(outcomes.events.sum()), len(outcomes.times)
    return f"the event was observed in {num_events} of {total} images, the others are censored"


def _note_on_reference(outcomes: Outcomes) -> str:
    """Return a note with the integrated Brier score of the Kaplan-Meier curve as the prediction for every image."""
    curve = KaplanMeier.of(outcomes.times, outcomes.events).at(outcomes.grid)
    alike = replace(outcomes, curves=np.broadcast_to(curve, outcomes.curves.shape))
    return f"integrated Brier score without images, by the Kaplan-Meier curve of all: {integrated_brier(alike):.3f}"
