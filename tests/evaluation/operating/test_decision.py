"""The decision curve agrees with its definition by counts, and finds the range in which a model is useful."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.evaluation.operating.cases import Cases
from medvit.evaluation.operating.decision import THRESHOLDS, decision_curve, net_benefit

HOW = {"resamples": 200, "seed": 0}


def drawn(number: int = 600, effect: float = 2.0, seed: int = 0) -> Cases:
    """Cases with calibrated scores: the score is the probability of the condition."""
    generator = np.random.default_rng(seed)
    truth = generator.random(number) < 0.3
    evidence = generator.normal(effect * truth, 1.0)
    scores = 1 / (1 + np.exp(-(effect * (evidence - effect / 2) + np.log(0.3 / 0.7))))
    return Cases(truth, scores, tuple(f"p{n}" for n in range(number)))


def test_at_the_prevalence_of_the_data_the_net_benefit_is_that_of_the_counts() -> None:
    cases = drawn()
    curve = decision_curve(cases, "ill", cases.prevalence, **HOW)
    for index in (4, 19, 49):
        t = THRESHOLDS[index]
        called = cases.scores >= t
        found, alarms = (called & cases.is_positive).sum(), (called & ~cases.is_positive).sum()
        assert curve.model[index] == pytest.approx((found - alarms * t / (1 - t)) / len(cases))
        everyone = cases.prevalence - (1 - cases.prevalence) * t / (1 - t)
        assert curve.everyone[index] == pytest.approx(everyone)
        assert curve.low[index] <= curve.model[index] <= curve.high[index]


def test_the_threshold_at_which_all_and_none_are_equal_is_the_prevalence() -> None:
    assert net_benefit(np.array([1.0]), np.array([0.0]), np.array([0.3]), 0.3)[0] == pytest.approx(0.0)


def test_a_calibrated_model_is_useful_around_the_prevalence_and_a_random_one_nowhere() -> None:
    ends = decision_curve(drawn(), "ill", 0.3, **HOW).useful()
    assert ends is not None
    assert ends[0] < 0.2
    assert ends[1] > 0.5
    generator = np.random.default_rng(1)
    random = Cases(generator.random(300) < 0.3, generator.random(300), tuple(f"p{n}" for n in range(300)))
    assert decision_curve(random, "ill", 0.3, **HOW).useful() is None


def test_more_images_of_the_same_patients_do_not_narrow_the_band() -> None:
    cases = drawn(100)
    tenfold = Cases(np.repeat(cases.is_positive, 10), np.repeat(cases.scores, 10), tuple(np.repeat(cases.patients, 10)))
    widths = [
        (curve.high - curve.low)[19] for curve in (decision_curve(c, "ill", 0.3, **HOW) for c in (cases, tenfold))
    ]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
