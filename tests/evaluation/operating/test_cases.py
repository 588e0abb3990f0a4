"""Cases are positive by their true class at the requested level, with the summed probability as score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from medvit.errors import ConfigError
from medvit.evaluation import Evaluation
from medvit.evaluation.operating.cases import cases_of, positive_groups

Evaluated = Callable[..., Evaluation]
GRADES = ("0", "1", "2")
TRUTH = [0, 1, 2, 2]
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.3, 0.6], [0.6, 0.3, 0.1]])


def test_grades_count_together(evaluated: Evaluated) -> None:
    found = cases_of(evaluated(TRUTH, PROBABILITIES, GRADES), ("1", "2"), "image")
    assert found.is_positive.tolist() == [False, True, True, True]
    assert found.scores == pytest.approx([0.3, 0.7, 0.9, 0.4])
    assert found.prevalence == 0.75


def test_a_patient_counts_once_with_the_worse_image(evaluated: Evaluated) -> None:
    found = cases_of(evaluated(TRUTH, PROBABILITIES, GRADES, images=2), ("1", "2"), "patient")
    assert found.is_positive.tolist() == [True, True]
    assert found.scores == pytest.approx([0.7, 0.9])
    assert (found.num_patients(positive=True), found.num_patients(positive=False)) == (2, 0)


def test_images_without_a_label_do_not_count_for_it(evaluated: Evaluated) -> None:
    columns = {"truth.a": np.array([0.0, np.nan, 1.0]), "p.a": np.array([0.1, 0.2, 0.3])}
    images = replace(evaluated([0, 0, 0], np.zeros((3, 1)), ("a",)), kind="multilabel", columns=columns)
    found = cases_of(images, ("a",), "image")
    assert (found.is_positive.tolist(), found.scores.tolist()) == ([False, True], [0.1, 0.3])
    with pytest.raises(ConfigError, match="is for a single label"):
        cases_of(images, ("a",), "patient")


def test_the_positive_class_or_each_class_against_the_rest_is_a_group(evaluated: Evaluated) -> None:
    three = evaluated(TRUTH, PROBABILITIES, GRADES)
    two = evaluated([0, 1], np.full((2, 2), 0.5), ("benign", "malignant"))
    assert positive_groups(three, ()) == [("0",), ("1",), ("2",)]
    assert positive_groups(three, ("2", "1")) == [("1", "2")]
    assert positive_groups(two, ()) == [("malignant",)]
    with pytest.raises(ConfigError, match="names 3; the model has 0, 1, 2"):
        positive_groups(three, ("3",))
    with pytest.raises(ConfigError, match="names all classes"):
        positive_groups(three, GRADES)
