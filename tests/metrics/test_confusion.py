"""The confusion matrix and what derives from it equal scikit-learn's."""

import math

import numpy as np
import pytest
from sklearn import metrics

from medvit.metrics.confusion import confusion_matrix
from medvit.metrics.f1_macro import f1_macro
from medvit.metrics.sensitivity import sensitivity
from medvit.metrics.specificity import specificity


@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_confusion_matrix_and_its_ratios_are_those_of_scikit_learn(num_classes):
    truth, chosen = np.random.default_rng(num_classes).integers(0, num_classes, (2, 80))
    counts = confusion_matrix(truth, chosen, num_classes)
    assert (counts == metrics.confusion_matrix(truth, chosen)).all()
    np.testing.assert_allclose(sensitivity(counts), metrics.recall_score(truth, chosen, average=None))
    others = [metrics.recall_score(truth != label, chosen != label) for label in range(num_classes)]
    np.testing.assert_allclose(specificity(counts), others)
    assert f1_macro(counts) == pytest.approx(metrics.f1_score(truth, chosen, average="macro"), abs=1e-12)


def test_rows_are_the_truth_and_columns_the_choice():
    assert confusion_matrix(np.array([0, 0]), np.array([2, 2]), 3).tolist() == [[0, 0, 2], [0, 0, 0], [0, 0, 0]]


def test_f1_does_not_count_a_class_that_neither_truth_nor_choice_has():
    assert f1_macro(confusion_matrix(np.array([0, 2]), np.array([0, 2]), 4)) == 1.0
    assert math.isnan(f1_macro(np.zeros((2, 2), int)))


def test_ratios_of_no_image_are_undefined():
    counts = confusion_matrix(np.array([1, 1]), np.array([0, 1]), 2)
    np.testing.assert_equal(sensitivity(counts), [np.nan, 0.5])
    np.testing.assert_equal(specificity(counts), [0.5, np.nan])
