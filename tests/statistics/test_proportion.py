"""Proportions have intervals with the stated coverage, also for several images of a patient, and McNemar's test."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, chi2

from medvit.statistics.proportion import Proportion, mcnemar, wilson


def names(numbers):
    return [f"p{n}" for n in numbers]


def proportion(is_right, patients=None):
    is_right = np.asarray(is_right, dtype=bool)
    return Proportion.of_all(is_right, names(range(len(is_right)) if patients is None else patients))


@pytest.mark.parametrize(("right", "total"), [(7, 7), (0, 5), (3, 10), (48, 50)])
def test_one_image_a_patient_has_the_interval_of_scipy(right, total):
    found = proportion([True] * right + [False] * (total - right)).estimate()
    expected = binomtest(right, total).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.method == "Wilson"


def test_seven_of_seven_patients_are_no_proof_of_perfection():
    assert str(proportion([True] * 7).estimate()) == "1.000 [0.646, 1.000]"


def test_only_images_that_count_are_in_the_proportion():
    counts = np.array([True, True, False, True])
    found = Proportion(counts, np.array([True, False, True, True]), list("abcd")).estimate()
    assert found.value == pytest.approx(2 / 3)
    assert str(Proportion(np.zeros(4, bool), counts, list("abcd")).estimate()) == "not defined"


def test_images_of_a_patient_that_always_agree_count_as_one():
    once = np.random.default_rng(0).random(200) < 0.7
    alone, copied = proportion(once).estimate(), proportion(np.repeat(once, 4), np.repeat(np.arange(200), 4)).estimate()
    assert copied.value == alone.value
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.01)
    perfect = proportion(np.ones(28, bool), np.repeat(np.arange(7), 4)).estimate()
    assert (perfect.low, perfect.high) == pytest.approx(wilson(1.0, 7))


def clustered(generator, num_patients, agreement):
    """Draw images whose patients have probabilities of 0.8 on average that vary more for a larger agreement."""
    own = generator.beta(0.8 / agreement, 0.2 / agreement, num_patients)
    sizes = generator.integers(1, 6, num_patients)
    patients = np.repeat(np.arange(num_patients), sizes)
    return generator.random(len(patients)) < own[patients], patients


@pytest.mark.parametrize("agreement", [0.1, 1.0])
@pytest.mark.parametrize("num_patients", [12, 60])
def test_intervals_cover_the_true_proportion(num_patients, agreement):
    generator = np.random.default_rng(0)
    found = [proportion(*clustered(generator, num_patients, agreement)).estimate() for _ in range(1000)]
    assert {one.method for one in found} == {"Wilson, effective number"}
    assert 0.925 <= np.mean([one.low <= 0.8 <= one.high for one in found]) <= 0.99  # standard error 0.7 points


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 6), (9, 9), (20, 5), (0, 5)])
def test_mcnemar_is_the_exact_binomial_test(better, worse):
    expected = binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert mcnemar(better, worse) == pytest.approx(expected)
    one = [True] * better + [False] * worse + [True] * 5
    other = [False] * better + [True] * worse + [True] * 5
    test = proportion(one).compared(proportion(other))
    assert (test.name, test.p) == ("McNemar", pytest.approx(expected))


def test_the_variance_of_a_difference_is_that_of_differences_of_patients():
    generator = np.random.default_rng(0)
    one, other = generator.random((2, 90)) < 0.6
    found = proportion(one).compared(proportion(other)).variance
    assert found == pytest.approx(np.var(one.astype(float) - other) / 90)


def test_the_clustered_test_is_that_of_mcnemar_for_many_patients_with_one_image_each():
    generator = np.random.default_rng(0)
    one, other = generator.random(2000) < 0.7, generator.random(2000) < 0.72
    patients = [*range(1999), 1998]  # one patient has two images
    found = proportion(one, patients).compared(proportion(other, patients))
    better, worse = (one & ~other).sum(), (~one & other).sum()
    assert found.name == "McNemar, clustered"
    assert found.p == pytest.approx(chi2.sf((better - worse) ** 2 / (better + worse), 1), abs=0.01)


def test_equally_good_models_differ_significantly_in_five_percent_of_samples():
    generator = np.random.default_rng(0)
    p_values = []
    for _ in range(1000):
        own = np.repeat(generator.beta(2, 1, 40), 3)
        patients = np.repeat(np.arange(40), 3)
        one, other = (proportion(generator.random(120) < own, patients) for _ in "12")
        p_values.append(one.compared(other).p)
    assert 0.03 <= np.mean(np.array(p_values) < 0.05) <= 0.07


def test_models_with_other_denominators_have_no_test():
    right = np.array([True, False, True])
    one = Proportion(np.array([True, True, False]), right, list("abc"))
    assert one.compared(Proportion.of_all(right, list("abc"))) is None


def test_models_that_agree_on_every_image_have_p_1():
    one = proportion([True, False, True, True], [0, 0, 1, 1])
    assert one.compared(one).p == 1.0
    assert not math.isnan(one.compared(one).variance)
