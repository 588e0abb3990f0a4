"""Intervals of survival metrics contain the known truth, and reports show observed and predicted curves."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.evaluation import Evaluation
from medvit.evaluation.report.plots import calibration_figure, risk_group_figure
from medvit.evaluation.tasks.survival import evaluate_survival, outcomes_of
from medvit.metrics.survival.c_index import concordance
from medvit.metrics.survival.c_uno import weighted_concordance
from medvit.records import Row
from medvit.statistics.bootstrap import bootstrap
from medvit.survival import survival_names

ENDS = (25.0, 60.0, 120.0, 400.0)
NAMES = survival_names("days", ENDS)
RATES = np.geomspace(0.002, 0.06, 100)
"""Hazards per day of 100 patients."""


def drawn(seed: int, *, censored_by: float = 300.0) -> np.ndarray:
    """Return exponential times at the rates, with events, censored at uniform times that do not depend on them."""
    generator = np.random.default_rng(seed)
    event, censoring = generator.exponential(1.0 / RATES), generator.uniform(0.0, censored_by, len(RATES))
    return np.stack([np.minimum(event, censoring), event <= censoring], axis=1)


def rows() -> list[Row]:
    kinds = ("", "", "", "image", "d", "test", (1, 8, 8), "uint8", "0")
    return [Row(f"i-{n}", f"p-{n}", *kinds) for n in range(len(RATES))]


def evaluated(truth: np.ndarray, rates: np.ndarray = RATES) -> Evaluation:
    curves = np.exp(-np.outer(rates, ENDS))
    return evaluate_survival(rows(), truth, curves, NAMES, horizons=(30.0, 90.0), resamples=100, seed=0)


def test_intervals_of_unos_c_contain_the_truth_about_as_often_as_they_claim():
    """The truth is the chance of the order of two exponential times, of which the first is before the last time."""
    first, last = RATES[:, None], ENDS[-1]
    before = first / (first + RATES) * (1.0 - np.exp(-(first + RATES) * last))
    others = ~np.eye(len(RATES), dtype=bool)
    truth = (before * (first > RATES))[others].sum() / before[others].sum()
    found, names = 0, [f"p-{n}" for n in range(len(RATES))]
    for seed in range(40):
        outcome = drawn(seed)
        table = {"truth": outcome[:, 0], "event": outcome[:, 1], "predicted": 1.0 / RATES}
        table |= {f"p.{name}": np.exp(-RATES * end) for name, end in zip(NAMES, ENDS, strict=True)}
        outcomes = outcomes_of(table, NAMES, ())
        interval = bootstrap(
            lambda one, of=outcomes: {"c": weighted_concordance(of.at(one))}, names, resamples=60, seed=seed
        )["c"]
        found += interval.low <= truth <= interval.high
    assert found >= 34  # of 40 at 95 %, of which 34 or more are expected in 99 % of all cases


def test_harrells_c_depends_on_censoring_and_unos_does_not():
    """Only early events are predicted; with censoring, they are a larger share of the observed ones."""
    few, many = (np.mean([_c_indices(seed, days) for seed in range(30)], axis=0) for days in (1e6, 60.0))
    harrell, uno = many - few
    assert harrell > 0.05
    assert uno == pytest.approx(0.0, abs=0.01)


def _c_indices(seed: int, censored_by: float) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    is_early = np.arange(200) < 60
    event = np.where(is_early, generator.uniform(0.0, 20.0, 200), generator.uniform(20.0, 50.0, 200))
    predicted = np.where(is_early, event, generator.uniform(20.0, 50.0, 200))
    censoring = generator.uniform(0.0, censored_by, 200)
    times, events = np.minimum(event, censoring), event <= censoring
    table = {"truth": times, "event": events.astype(float), "predicted": predicted, "p.days > 50": np.ones(200)}
    return concordance(times, events, predicted), weighted_concordance(outcomes_of(table, ("days > 50",), ()))


def test_true_hazards_are_calibrated_and_better_than_a_curve_of_all():
    result = evaluated(drawn(0))
    for horizon in ("30", "90"):
        ratio = result.metrics[f"observed_expected.{horizon}"]
        assert ratio.low < 1.0 < ratio.high
    reference = float(result.notes[-1].rpartition(" ")[2])
    assert result.metrics["integrated_brier"].value < reference
    assert evaluated(drawn(0), RATES[::-1]).metrics["integrated_brier"].value > reference
    assert evaluated(drawn(0), 2.0 * RATES).metrics["observed_expected.30"].high < 1.0


def test_figures_show_observed_and_predicted_survival_of_risk_groups():
    result = evaluated(drawn(0))
    (axes,) = risk_group_figure(result).axes
    assert axes.get_xlabel() == "days"
    low, low_predicted, _, _, high, high_predicted = (line.get_ydata()[-1] for line in axes.lines)
    assert low > high
    assert [low_predicted, high_predicted] == pytest.approx([low, high], abs=0.2)
    (axes,) = calibration_figure(result, 90.0).axes
    points = np.array([container.lines[0].get_xydata()[0] for container in axes.containers])
    assert len(points) == 5
    assert np.abs(np.diff(points, axis=1)).max() < 0.2
