"""Accuracy equals scikit-learn's."""

import math

import numpy as np
from sklearn.metrics import accuracy_score

from medvit.metrics.accuracy import accuracy


def test_accuracy_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    truth, chosen = generator.integers(0, 3, (2, 50))
    assert accuracy(truth, chosen) == accuracy_score(truth, chosen)


def test_accuracy_without_images_is_undefined():
    assert math.isnan(accuracy(np.zeros(0, int), np.zeros(0, int)))
