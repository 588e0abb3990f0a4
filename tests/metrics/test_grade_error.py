"""Mean error in grades equals scikit-learn's mean absolute error."""

import math

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error

from medvit.metrics.confusion import confusion_matrix
from medvit.metrics.grade_error import grade_error


def test_the_error_is_that_of_scikit_learn():
    truth, chosen = np.random.default_rng(0).integers(0, 5, (2, 80))
    assert grade_error(confusion_matrix(truth, chosen, 5), range(5)) == pytest.approx(
        mean_absolute_error(truth, chosen), abs=1e-12
    )


def test_the_error_is_in_the_numbers_of_the_grades():
    counts = confusion_matrix(np.array([0, 1]), np.array([0, 2]), 3)
    assert grade_error(counts, (1, 2, 9)) == 3.5
    assert math.isnan(grade_error(np.zeros((3, 3), dtype=int), (0, 1, 2)))
