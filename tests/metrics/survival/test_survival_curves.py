"""Survival curves between their times, and the Kaplan-Meier estimator."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import ConfigError
from medvit.survival import (
    KaplanMeier,
    default_horizons,
    median_time,
    require_horizons,
    restricted_means,
    survival_at,
    survival_names,
    survival_times,
)

TIMES = (1.0, 2.5, 4.0)


def exponential(rates):
    return np.exp(-np.outer(rates, TIMES))


def test_exponential_curves_are_exact_between_and_after_their_times():
    rates, asked = np.array([0.1, 0.7]), np.array([0.5, 1.0, 3.0, 9.0])
    assert survival_at(TIMES, exponential(rates), asked) == pytest.approx(np.exp(-np.outer(rates, asked)))
    assert restricted_means(TIMES, exponential(rates)) == pytest.approx((1 - np.exp(-4 * rates)) / rates)
    assert median_time(TIMES, exponential([0.7])[0]) == pytest.approx(np.log(2) / 0.7)
    assert median_time(TIMES, exponential([0.1])[0]) is None


def test_curves_of_certain_outcomes_are_finite():
    curves = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert survival_at(TIMES, curves, [2.0]) == pytest.approx(np.array([[1.0], [0.0]]), abs=1e-9)
    assert restricted_means(TIMES, curves)[0] == 4.0
    assert 0.0 < restricted_means(TIMES, curves)[1] < 0.05


@pytest.mark.parametrize("times", [(1.0, 365.25, 1e6), (0.1 + 0.2,), (12345678.0,)])
def test_times_are_read_back_from_the_names_of_probabilities(times):
    assert survival_times(survival_names("a > b", times)) == pytest.approx(times, rel=1e-14)


def test_kaplan_meier_is_that_of_a_life_table():
    # The 6-MP arm of Freireich et al. (Blood 1963), as in Cox and Oakes, Analysis of Survival Data (1984), table 1.2.
    weeks = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35], dtype=float)
    events = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    found = KaplanMeier.of(weeks, events)
    expected = {5.9: 1.0, 6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448, 35: 0.448}
    assert found.at(np.array(list(expected))) == pytest.approx(list(expected.values()), abs=5e-4)
    assert found.before(6.0) == 1.0
    low, high = found.interval(10.0)
    assert (low, high) == pytest.approx((0.503, 0.889), abs=1e-3)


def test_a_person_is_censored_after_the_events_of_the_same_time():
    times, events = np.array([1.0, 1.0, 2.0]), np.array([True, False, True])
    assert KaplanMeier.of_censoring(times, events).at(1.0) == 0.5
    assert KaplanMeier.of(times, events).at(1.0) == pytest.approx(2 / 3)


def test_horizons_are_within_the_times_of_a_model(caplog):
    names = survival_names("days", range(10, 110, 10))
    assert default_horizons(names) == (20.0, 50.0, 80.0)
    require_horizons((100.0,), "survival", names)
    with pytest.raises(ConfigError, match=r"horizons contains 101; the last event in the training .* was at 100"):
        require_horizons((50.0, 101.0), "survival", names)
    require_horizons((1.0,), "regression", ("age",))
    assert "horizons is ignored: it is an option of survival" in caplog.text
