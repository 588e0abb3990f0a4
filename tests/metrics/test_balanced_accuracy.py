"""Balanced accuracy equals its definition and scikit-learn's."""

import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from medvit.metrics.accuracy import accuracy
from medvit.metrics.balanced_accuracy import balanced_accuracy
from medvit.metrics.confusion import confusion_matrix
from medvit.metrics.sensitivity import sensitivity


def test_balanced_accuracy_does_not_reward_the_frequent_class():
    truth = np.array([0] * 90 + [1] * 10)
    always_first = np.zeros(100, int)
    assert accuracy(truth, always_first) == 0.9
    assert balanced_accuracy(truth, always_first) == 0.5


@pytest.mark.parametrize("num_classes", [2, 5])
def test_balanced_accuracy_is_that_of_scikit_learn(num_classes):
    truth, chosen = np.random.default_rng(num_classes).integers(0, num_classes, (2, 80))
    assert balanced_accuracy(truth, chosen) == pytest.approx(balanced_accuracy_score(truth, chosen), abs=1e-12)


def test_balanced_accuracy_is_the_mean_of_the_sensitivities():
    truth, chosen = np.random.default_rng(0).integers(0, 4, (2, 80))
    assert balanced_accuracy(truth, chosen) == sensitivity(confusion_matrix(truth, chosen, 4)).mean()


def test_a_class_that_does_not_occur_does_not_count():
    assert balanced_accuracy(np.array([0, 0, 3, 3]), np.array([0, 1, 3, 5])) == 0.5
    assert math.isnan(balanced_accuracy(np.zeros(0, int), np.zeros(0, int)))
