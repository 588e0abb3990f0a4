"""Metrics of survival predictions equal their definitions, examples by hand, and values of torchsurv."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvit.metrics import Outcomes, SurvivalMetric, metrics
from medvit.metrics.survival.auroc_at import aurocs
from medvit.metrics.survival.brier_at import brier_scores
from medvit.metrics.survival.c_index import concordance
from medvit.metrics.survival.c_uno import weighted_concordance
from medvit.metrics.survival.integrated_brier import integrated_brier
from medvit.metrics.survival.observed_expected import observed_over_expected

TIMES = np.array([1.0, 2.0, 3.0, 4.0])
EVENTS = np.array([True, False, True, False])
"""Observed at 1, censored at 2, observed at 3, censored at 4. Uncensored: 1 before 2, 2/3 from 2 on, 0 from 4 on."""

TORCHSURV = {
    "harrell": 0.6973948,
    "uno": 0.7194178,
    "brier": [0.2281678, 0.1546086, 0.0899699],
    "auroc": [0.6516541, 0.9716039, 1.0],
}
"""Metrics of `outcomes(40, seed=1, decimals=9)` by torchsurv 0.2.0, in single precision."""


def outcomes(number: int = 60, *, seed: int = 0, decimals: int = 1) -> Outcomes:
    """Return outcomes with exponential times, coarse enough to have ties, and imperfect predictions."""
    generator = np.random.default_rng(seed)
    risk = generator.normal(size=number)
    event, censoring = generator.exponential(np.exp(-risk)), generator.exponential(1.5, number)
    times, events = np.round(np.minimum(event, censoring), decimals), event <= censoring
    noisy = np.round(risk + generator.normal(size=number), decimals)
    grid, horizons = np.linspace(0.0, 2.0, 21)[1:], np.array([0.35, 0.75, 1.25])
    curves, at_horizons = (np.exp(-np.exp(noisy)[:, None] * asked) for asked in (grid, horizons))
    return Outcomes(times, events, -noisy, grid, curves, horizons, at_horizons)


def by_hand(survival: list[float], horizon: float) -> Outcomes:
    one = np.array(survival)[:, None]
    return Outcomes(TIMES, EVENTS, one[:, 0], np.array([horizon]), one, np.array([horizon]), one)


def uncensored_before(found: Outcomes, time: float, *, including: bool = False) -> float:
    """Return the probability of not being censored before a time, as the product over all moments of censoring."""
    product = 1.0
    for moment in np.unique(found.times[~found.events]):
        if moment < time or (including and moment == time):
            leaving = (found.times == moment) & ~found.events
            at_risk = (found.times > moment) | leaving
            product *= 1.0 - leaving.sum() / at_risk.sum()
    return product


def pairs(found: Outcomes):
    """Yield the comparable pairs of images, of which the first has the event before the other."""
    for i in np.flatnonzero(found.events):
        for j in range(len(found.times)):
            is_later = found.times[j] > found.times[i]
            if is_later or (found.times[j] == found.times[i] and not found.events[j]):
                yield i, j, (found.expected[j] > found.expected[i]) + 0.5 * (found.expected[j] == found.expected[i])


@pytest.mark.parametrize("number", [2, 7, 60, 150])
def test_c_indices_are_those_of_all_pairs(number):
    found = outcomes(number, seed=number)
    total, right, weighted, weighted_right = 0.0, 0.0, 0.0, 0.0
    for i, _, score in pairs(found):
        total, right = total + 1.0, right + score
        if found.times[i] <= found.grid[-1]:
            weight = uncensored_before(found, found.times[i]) ** -2
            weighted, weighted_right = weighted + weight, weighted_right + weight * score
    assert concordance(found.times, found.events, found.expected) == pytest.approx(right / total, rel=1e-12)
    assert weighted_concordance(found) == pytest.approx(weighted_right / weighted, rel=1e-12)


def test_brier_scores_are_those_of_their_definition():
    found = outcomes()
    for time, score, survival in zip(
        found.horizons,
        brier_scores(found, found.horizons, found.at_horizons),
        found.at_horizons.T,
        strict=True,
    ):
        parts = [
            (1.0 - predicted) ** 2 / uncensored_before(found, time, including=True)
            if own > time
            else event * predicted**2 / uncensored_before(found, own)
            for own, event, predicted in zip(found.times, found.events, survival, strict=True)
        ]
        assert score == pytest.approx(np.mean(parts), rel=1e-12)


def test_aurocs_are_those_of_all_cases_and_controls():
    found = outcomes()
    for time, value, survival in zip(found.horizons, aurocs(found), found.at_horizons.T, strict=True):
        total, right = 0.0, 0.0
        for i in np.flatnonzero(found.events & (found.times <= time)):
            weight = 1.0 / uncensored_before(found, found.times[i])
            for j in np.flatnonzero(found.times > time):
                total += weight
                right += weight * ((survival[j] > survival[i]) + 0.5 * (survival[j] == survival[i]))
        assert value == pytest.approx(right / total, rel=1e-12)


def test_metrics_of_four_images_are_those_computed_by_hand():
    found = by_hand([0.3, 0.5, 0.4, 0.9], 3.5)
    # Pairs 1-2, 1-3, 1-4 with weight 1, all right; 3-4 with weight 1 / (2/3)^2, right.
    assert concordance(TIMES, EVENTS, np.array([0.3, 0.5, 0.4, 0.9])) == 1.0
    # With the third predicted last, 3-4 is wrong: 3 of 4 pairs, or 3 of 3 + 9/4.
    wrong = by_hand([0.3, 0.5, 0.95, 0.9], 3.5)
    assert concordance(TIMES, EVENTS, wrong.expected) == 0.75
    assert weighted_concordance(wrong) == pytest.approx(3 / (3 + 9 / 4))
    # Events at 1 and 3 with weights 1 and 3/2, the one after 3.5 with 3/2, the censored one with 0.
    expected = (0.3**2 + 1.5 * 0.4**2 + 1.5 * 0.1**2) / 4
    assert brier_scores(found, found.horizons, found.at_horizons) == pytest.approx([expected])
    # Kaplan-Meier: 3/4 after the first event, 3/4 * 1/2 after the second.
    assert observed_over_expected(found) == pytest.approx([(1 - 3 / 8) / (1 - 0.525)])
    # Of the control at 4 and the cases at 1 and 3, weights 1 and 3/2, only the second is wrong.
    assert aurocs(wrong) == pytest.approx([1 / 2.5])


def test_values_are_those_of_torchsurv():
    found = outcomes(40, seed=1, decimals=9)
    assert concordance(found.times, found.events, found.expected) == pytest.approx(TORCHSURV["harrell"], abs=1e-6)
    assert weighted_concordance(found) == pytest.approx(TORCHSURV["uno"], abs=1e-6)
    assert brier_scores(found, found.horizons, found.at_horizons) == pytest.approx(TORCHSURV["brier"], abs=1e-6)
    assert aurocs(found) == pytest.approx(TORCHSURV["auroc"], abs=1e-6)


def test_c_indices_depend_only_on_the_orders_of_times_and_predictions():
    found = outcomes()
    value = concordance(found.times, found.events, found.expected)
    assert concordance(found.times**3, found.events, np.exp(found.expected)) == value
    assert concordance(found.times, found.events, -found.expected) == pytest.approx(1.0 - value)
    scaled = replace(found, times=found.times * 30.0, grid=found.grid * 30.0, expected=found.expected * 2.0 + 1.0)
    assert weighted_concordance(scaled) == pytest.approx(weighted_concordance(found))
    shuffled = found.at(np.random.default_rng(0).permutation(len(found.times)))
    assert concordance(shuffled.times, shuffled.events, shuffled.expected) == value


def test_without_censoring_both_c_indices_agree_and_brier_is_the_mean_squared_error():
    found = replace(outcomes(), events=np.ones(60, dtype=bool), grid=np.array([99.0]))
    assert weighted_concordance(found) == concordance(found.times, found.events, found.expected)
    errors = np.square((found.times[:, None] > found.horizons) - found.at_horizons).mean(axis=0)
    assert brier_scores(found, found.horizons, found.at_horizons) == pytest.approx(errors)


def test_the_integrated_brier_score_of_a_constant_score_is_its_mean():
    grid = np.linspace(0.0, 2.0, 401)[1:]
    found = Outcomes(
        np.full(3, 5.0), np.ones(3, bool), np.zeros(3), grid, np.full((3, 400), 0.5), grid[:0], np.zeros((3, 0))
    )
    assert integrated_brier(found) == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("metric", metrics(SurvivalMetric), ids=lambda metric: metric.name)
def test_a_metric_without_images_or_events_is_undefined_or_0(metric):
    found = outcomes()
    compute = metric.of_all or metric.of_each
    assert np.isnan(compute(found.at(np.array([], dtype=int)))).all()
    censored = compute(replace(found, events=np.zeros(60, dtype=bool)))
    assert np.all(np.isnan(censored) | (censored >= 0.0))


@pytest.mark.parametrize("metric", metrics(SurvivalMetric), ids=lambda metric: metric.name)
def test_the_true_times_are_better_predictions_than_reversed_ones(metric):
    found = replace(outcomes(decimals=9), events=np.ones(60, dtype=bool))
    scores = []
    for expected in (found.times, found.times[np.argsort(np.argsort(-found.times))]):
        parts = {"curves": found.grid, "at_horizons": found.horizons}
        curves = {name: np.where(expected[:, None] > asked, 0.99, 0.01) for name, asked in parts.items()}
        scores.append((metric.of_all or metric.of_each)(replace(found, expected=expected, **curves)))
    if metric.higher_is_better is not None:
        assert np.all((scores[0] > scores[1]) == metric.higher_is_better)
