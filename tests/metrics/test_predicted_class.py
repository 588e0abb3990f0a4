"""Decision rules: the median grade has the smallest expected error in grades, and equals the rule of CORN."""

import numpy as np
import torch

from medvit.losses.ordinal import grade_probabilities
from medvit.metrics.confusion import median_grade, most_probable_class


def test_the_median_grade_is_the_number_of_grades_exceeded_with_a_probability_above_a_half():
    logits = torch.from_numpy(np.random.default_rng(0).normal(0.5, 2.0, (500, 4)))
    exceeds = logits.sigmoid().cumprod(dim=1)
    expected = (exceeds > 0.5).sum(dim=1)
    found = median_grade(grade_probabilities(logits).numpy())
    assert found.tolist() == expected.tolist()
    assert set(found.tolist()) == {0, 1, 2, 3, 4}


def test_the_median_grade_has_the_smallest_expected_error_in_grades():
    probabilities = np.random.default_rng(0).dirichlet(np.full(5, 0.5), 300)
    errors = probabilities @ np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    assert median_grade(probabilities).tolist() == errors.argmin(axis=1).tolist()


def test_the_two_rules_differ_if_the_most_probable_grade_is_not_in_the_middle():
    probabilities = np.array([[0.4, 0.3, 0.3], [0.3, 0.3, 0.4], [0.6, 0.1, 0.3], [0.5, 0.0, 0.5]])
    assert most_probable_class(probabilities).tolist() == [0, 2, 0, 0]
    assert median_grade(probabilities).tolist() == [1, 1, 0, 0]
