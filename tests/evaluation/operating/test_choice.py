"""A threshold reaches the wished value with the best other rates, or is refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import DataError
from medvit.evaluation.operating.cases import Cases
from medvit.evaluation.operating.choice import (
    choose_threshold,
    needed_patients,
    possible_thresholds,
    predictive_value,
    rates_at,
)
from medvit.evaluation.operating_options import Goal


def cases(positive: list[float] | np.ndarray, negative: list[float] | np.ndarray) -> Cases:
    scores = np.concatenate([positive, negative])
    patients = tuple(f"p{n}" for n in range(len(scores)))
    return Cases(np.arange(len(scores)) < len(positive), scores, patients)


def overlapping(number: int = 200) -> Cases:
    generator = np.random.default_rng(0)
    return cases(generator.beta(4, 2, number), generator.beta(2, 4, number))


@pytest.mark.parametrize("goal", ["sensitivity", "specificity", "ppv"])
def test_the_chosen_threshold_is_the_best_of_all_that_reach_the_wished_value(goal: Goal) -> None:
    found, prevalence, wished = overlapping(), 0.2, 0.8
    threshold = choose_threshold(found, goal, wished, prevalence)
    fitting = []
    for candidate in possible_thresholds(found):
        called = found.scores >= candidate
        sensitivity, specificity = called[found.is_positive].mean(), (~called[~found.is_positive]).mean()
        ppv = prevalence * sensitivity / (prevalence * sensitivity + (1 - prevalence) * (1 - specificity))
        if {"sensitivity": sensitivity, "specificity": specificity, "ppv": ppv}[goal] >= wished:
            fitting.append(candidate)
    assert threshold == (max(fitting) if goal == "sensitivity" else min(fitting))


def test_a_threshold_is_halfway_between_two_scores() -> None:
    found = cases(np.linspace(0.5, 0.9, 20), np.linspace(0.1, 0.4, 20))
    assert choose_threshold(found, "sensitivity", 0.95, 0.5) == pytest.approx(0.5 + 0.4 / 19 * 0.5)
    assert choose_threshold(found, "specificity", 0.95, 0.5) == pytest.approx(0.4 - 0.3 / 19 * 0.5)


def test_rates_at_thresholds_are_shares_of_the_calls() -> None:
    found = overlapping(50)
    thresholds = np.array([0.0, 0.3, 0.5, 1.1])
    sensitivity, specificity = rates_at(found, thresholds)
    for index, threshold in enumerate(thresholds):
        called = found.scores >= threshold
        assert sensitivity[index] == pytest.approx(called[found.is_positive].mean())
        assert specificity[index] == pytest.approx((~called[~found.is_positive]).mean())


def test_the_predictive_value_follows_bayes_theorem() -> None:
    # 1,000 patients, 100 ill: 90 found and 90 of 900 false alarms.
    assert predictive_value(np.array([0.9]), np.array([0.9]), 0.1)[0] == pytest.approx(90 / 180)
    assert np.isnan(predictive_value(np.array([0.0]), np.array([1.0]), 0.1)[0])


@pytest.mark.parametrize(("wished", "number"), [(0.5, 10), (0.9, 10), (0.95, 20), (0.99, 100)])
def test_a_high_rate_needs_as_many_patients_as_one_error_is_compatible_with(wished: float, number: int) -> None:
    assert needed_patients(wished) == number


def test_too_few_patients_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"sensitivity 0\.95 needs at least 20 positive patients .* which has 12"):
        choose_threshold(cases(np.linspace(0.5, 0.9, 12), np.linspace(0.1, 0.4, 40)), "sensitivity", 0.95, 0.5)
    same = Cases(np.arange(60) < 30, np.linspace(0, 1, 60), tuple(f"p{n // 10}" for n in range(60)))
    with pytest.raises(DataError, match=r"which has 3"):
        choose_threshold(same, "sensitivity", 0.5, 0.5)


def test_a_value_that_no_threshold_reaches_is_refused_with_the_largest_one() -> None:
    found = cases(np.linspace(0.1, 0.4, 30), np.linspace(0.5, 0.9, 30))
    with pytest.raises(DataError, match=r"no threshold has a ppv of 0\.9 in the val split; the largest .* is 0\.100"):
        choose_threshold(found, "ppv", 0.9, 0.1)
