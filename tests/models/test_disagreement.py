"""Disagreement is zero for equal members, and its parts sum up to the entropy of the mean."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.models.disagreement import Disagreement, entropy


def test_equal_members_do_not_disagree() -> None:
    members = np.tile(np.array([[0.2, 0.5, 0.3]]), (4, 1))
    found = Disagreement.of("classification", members)
    assert found.mutual_information == pytest.approx([0.0], abs=1e-12)
    assert found.entropy == pytest.approx([-(0.2 * np.log(0.2) + 0.5 * np.log(0.5) + 0.3 * np.log(0.3))])
    assert Disagreement.of("regression", np.full((3, 1), 7.0)).spread == 0.0


def test_members_that_are_certain_of_different_classes_only_disagree() -> None:
    found = Disagreement.of("slide", np.eye(3))
    assert found.entropy == pytest.approx([np.log(3.0)])
    assert found.mutual_information == pytest.approx([np.log(3.0)])


def test_entropy_is_the_mean_of_the_members_plus_their_mutual_information() -> None:
    members = np.random.default_rng(0).dirichlet(np.ones(4), 5)
    found = Disagreement.of("classification", members)
    assert found.entropy is not None
    assert found.mutual_information is not None
    assert found.entropy - found.mutual_information == pytest.approx([entropy(members).mean()])


def test_each_label_has_its_own_disagreement() -> None:
    found = Disagreement.of("multilabel", np.array([[0.5, 1.0], [0.5, 0.0]]))
    assert found.entropy == pytest.approx([np.log(2.0)] * 2)
    assert found.mutual_information == pytest.approx([0.0, np.log(2.0)], abs=1e-12)


def test_the_spread_of_numbers_is_their_standard_deviation() -> None:
    assert Disagreement.of("regression", np.array([[1.0], [2.0], [3.0]])).spread == pytest.approx(1.0)
