"""Means of few patients have intervals with nearly the stated coverage, and is undefined where it cannot."""

import numpy as np
import pytest
from scipy.stats import binomtest, t

from medvit.statistics import Estimate
from medvit.statistics.mean import few_mean, mean_of_limits

DRAWING = {"resamples": 1000, "seed": 0}


def names(number, each=1):
    return [f"p{n}" for n in range(number) for _ in range(each)]


@pytest.mark.parametrize("number", [7, 20])
def test_skewed_values_such_as_dice_are_covered(number):
    generator = np.random.default_rng(0)
    found = [few_mean(generator.beta(2, 0.3, number), names(number), (0.0, 1.0), **DRAWING) for _ in range(400)]
    true = 2 / 2.3
    assert 0.915 <= np.mean([one.low <= true <= one.high for one in found]) <= 0.985  # standard error 1.1 points
    assert all(0.0 <= one.low <= one.high <= 1.0 for one in found)


def test_the_interval_of_normal_values_is_that_of_student():
    generator = np.random.default_rng(0)
    widths = []
    for _ in range(100):
        values = generator.normal(0, 1, 15)
        one = few_mean(values, names(15), (-np.inf, np.inf), **DRAWING)
        widths.append((one.high - one.low) / (2 * t.ppf(0.975, 14) * values.std(ddof=1) / 15**0.5))
    assert np.mean(widths) == pytest.approx(1.0, abs=0.08)


def test_copies_of_images_do_not_narrow_the_interval():
    values = np.random.default_rng(0).beta(8, 2, 12)
    once = few_mean(values, names(12), (0.0, 1.0), **DRAWING)
    copied = few_mean(np.repeat(values, 5), names(12, 5), (0.0, 1.0), **DRAWING)
    assert (copied.value, copied.low, copied.high) == pytest.approx((once.value, once.low, once.high))


def test_images_without_a_value_do_not_count():
    values = np.array([0.5, np.nan, 0.7, 0.8, 0.9, 0.6])
    found = few_mean(values, names(6), (0.0, 1.0), **DRAWING)
    kept = ~np.isnan(values)
    assert found == few_mean(values[kept], list(np.array(names(6))[kept]), (0.0, 1.0), **DRAWING)
    assert str(few_mean(np.full(3, np.nan), names(3), (0.0, 1.0), **DRAWING)) == "not defined"


@pytest.mark.parametrize(("values", "method"), [([0.9] * 7, "agreement"), ([0.5, 0.7, 0.8], "few patients")])
def test_equal_values_and_three_patients_have_no_interval(values, method):
    found = few_mean(np.array(values), names(len(values)), (0.0, 1.0), **DRAWING)
    assert (found.method, str(found)) == (method, f"{np.mean(values):.3f} [no interval]")


@pytest.mark.parametrize("number", [2, 7, 100])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_values_at_a_bound_have_the_exact_interval_of_their_proportion(value, number):
    found = few_mean(np.full(3 * number, value), names(number, 3), (0.0, 1.0), **DRAWING)
    expected = binomtest(int(value * number), number).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    unbounded = few_mean(np.zeros(7), names(7), (0.0, np.inf), **DRAWING)
    assert str(unbounded) == "0.000 [no interval]"


def test_many_patients_are_left_to_the_bootstrap():
    assert few_mean(np.arange(30.0), names(30), (0.0, 30.0), **DRAWING) is None


def test_the_limits_of_a_mean_of_classes_are_the_means_of_their_limits():
    found = mean_of_limits([Estimate(1.0, 0.6, 1.0), Estimate(1.0, 0.8, 1.0)])
    assert found == Estimate(1.0, 0.7, 1.0, "mean of classes")
