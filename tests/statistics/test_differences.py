"""Differences are written for readers, corrected, and state a number of patients that has the stated power."""

import numpy as np
import pytest

from medvit.statistics import PairedTest, differences
from medvit.statistics.differences import MIN_NEEDED, Difference, corrected, patients_needed


def difference(p, needed=100):
    return Difference(0.02, -0.01, 0.05, "bootstrap", "bootstrap", p, num_patients_needed=needed)


def test_the_number_of_patients_has_a_power_of_80_percent():
    generator = np.random.default_rng(0)
    spread = 0.1  # of the difference between two models, from patient to patient
    needed = patients_needed(spread**2 / 50, 50)
    drawn = generator.normal(0.01, spread, (4000, needed))
    scores = drawn.mean(axis=1) / (drawn.std(axis=1, ddof=1) / needed**0.5)
    assert (np.abs(scores) > 1.96).mean() == pytest.approx(0.8, abs=0.02)  # standard error 0.006


def test_no_number_is_stated_without_a_variance_or_below_ten():
    assert patients_needed(0.0, 50) is None
    assert patients_needed(float("nan"), 50) is None
    assert patients_needed(1e-9, 50) == MIN_NEEDED


def test_a_difference_without_a_p_value_is_not_counted_in_the_correction():
    found = corrected({"a": difference(0.01), "b": difference(0.03), "c": difference(float("nan"))})
    assert (found["a"].p_corrected, found["b"].p_corrected) == pytest.approx((0.02, 0.03))
    assert np.isnan(found["c"].p_corrected)


def test_a_metric_of_the_only_class_is_not_a_test_of_its_own() -> None:
    one, two = difference(0.01), difference(0.03)
    found = corrected({"dice": one, "dice.liver": one, "nsd": two, "nsd.liver": two})
    assert [each.p_corrected for each in found.values()] == pytest.approx([0.02, 0.02, 0.03, 0.03])
    several = corrected({"dice": one, "dice.liver": one, "dice.spleen": two})
    assert several["dice"].p_corrected == pytest.approx(0.03)


def test_readers_see_interval_and_p_values():
    assert str(corrected({"a": difference(0.0001), "b": difference(0.2)})["a"]) == (
        "0.020 [-0.010, 0.050], p < 0.001, corrected < 0.001"
    )
    assert str(difference(float("nan"))) == "0.020 [-0.010, 0.050]"


def test_another_test_replaces_p_value_and_number_of_patients():
    found = differences.tested(difference(0.5), PairedTest("DeLong", 0.04, 0.001), 60)
    assert (found.test, found.p, found.num_patients_needed) == ("DeLong", 0.04, patients_needed(0.001, 60))
    assert (
        differences.tested(difference(0.5, needed=None), PairedTest("DeLong", 0.04, 0.001), 60).num_patients_needed
        is None
    )
