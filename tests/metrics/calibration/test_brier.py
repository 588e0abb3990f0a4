"""The Brier score equals its definition and scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from medvit.metrics.calibration.brier import brier


def test_brier_counts_the_distance_of_all_probabilities():
    assert brier(np.array([0]), np.array([[0.7, 0.2, 0.1]])) == pytest.approx(0.3**2 + 0.2**2 + 0.1**2)


def test_brier_of_two_classes_is_twice_that_of_scikit_learn_for_class_1():
    generator = np.random.default_rng(0)
    truth, probabilities = generator.integers(0, 2, 60), generator.dirichlet((1, 1), 60)
    assert brier(truth, probabilities) == pytest.approx(2 * brier_score_loss(truth, probabilities[:, 1]), abs=1e-12)
