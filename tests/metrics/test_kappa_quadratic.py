"""Quadratic kappa equals scikit-learn's."""

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from medvit.metrics.confusion import confusion_matrix
from medvit.metrics.kappa_quadratic import quadratic_kappa


def test_kappa_is_that_of_scikit_learn():
    truth, chosen = np.random.default_rng(0).integers(0, 5, (2, 80))
    theirs = cohen_kappa_score(truth, chosen, weights="quadratic")
    assert quadratic_kappa(confusion_matrix(truth, chosen, 5), range(5)) == pytest.approx(theirs, abs=1e-12)


def test_an_error_costs_by_the_numbers_of_the_grades_and_not_by_their_order():
    counts = confusion_matrix(np.array([0, 1, 2, 0]), np.array([0, 1, 2, 1]), 3)
    assert quadratic_kappa(counts, (0, 1, 9)) > quadratic_kappa(counts, (0, 1, 2))
    assert quadratic_kappa(counts, (3, 4, 5)) == quadratic_kappa(counts, (0, 1, 2))


def test_kappa_of_one_grade_is_undefined():
    assert math.isnan(quadratic_kappa(confusion_matrix(np.array([1, 1]), np.array([1, 1]), 3), range(3)))
