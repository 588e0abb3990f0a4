"""AUROC equals its definition and scikit-learn's."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medvit.metrics.auroc import auroc, mean_auroc, one_vs_rest_auroc


def drawn(num_classes, decimals, count=80):
    generator = np.random.default_rng(decimals)
    probabilities = generator.dirichlet(np.ones(num_classes), count).round(decimals)  # one decimal makes ties
    return generator.integers(0, num_classes, count), probabilities


def test_auroc_is_the_chance_that_a_case_scores_above_a_control():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 40)
    scores = np.round(generator.random(40), 1)  # with ties, which count half
    pairs = list(itertools.product(scores[truth == 1], scores[truth == 0]))
    by_hand = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])
    assert auroc(truth == 1, scores) == pytest.approx(by_hand)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [1, 6])
def test_auroc_is_that_of_scikit_learn(decimals, dtype):
    truth, probabilities = drawn(2, decimals)
    scores = probabilities[:, 1].astype(dtype)
    assert auroc(truth == 1, scores) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


@pytest.mark.parametrize("decimals", [1, 6])
def test_mean_auroc_is_that_of_scikit_learn_over_all_classes(decimals):
    truth, probabilities = drawn(5, decimals)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    theirs = roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    assert mean_auroc(truth, probabilities) == pytest.approx(theirs, abs=1e-12)


def test_a_class_without_a_case_does_not_count_in_the_mean():
    truth, probabilities = drawn(4, 6)
    truth[truth == 2] = 0
    areas = one_vs_rest_auroc(truth, probabilities)
    assert np.isnan(areas).tolist() == [False, False, True, False]
    assert mean_auroc(truth, probabilities) == pytest.approx(areas[[0, 1, 3]].mean())


def test_auroc_of_one_class_is_undefined():
    assert math.isnan(mean_auroc(np.zeros(3, int), np.full((3, 2), 0.5)))
    assert math.isnan(auroc(np.ones(3, bool), np.arange(3.0)))


def test_probabilities_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="AUROC requires finite probabilities"):
        mean_auroc(np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, np.nan]]))
