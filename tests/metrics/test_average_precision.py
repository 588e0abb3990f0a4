"""Average precision equals its definition and scikit-learn's."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from medvit.metrics.average_precision import average_precision


def test_average_precision_is_the_mean_of_the_precision_at_each_case():
    positive, scores = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.1])
    assert average_precision(positive, scores) == pytest.approx((1 / 1 + 2 / 3) / 2)


@pytest.mark.parametrize("decimals", [1, 6])
def test_average_precision_is_that_of_scikit_learn(decimals):
    generator = np.random.default_rng(decimals)
    positive, scores = generator.random(80) < 0.3, generator.random(80).round(decimals)  # one decimal makes ties
    assert average_precision(positive, scores) == pytest.approx(average_precision_score(positive, scores), abs=1e-12)


def test_average_precision_without_a_case_is_undefined():
    assert math.isnan(average_precision(np.zeros(3, bool), np.arange(3.0)))
