"""Distance from a training cohort: its threshold, and images of another kind, which are outside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvit.embeddings.cohort import SHARE_BELOW, TrainingCohort
from medvit.errors import DataError
from tests.embeddings.test_table import table

WIDTH = 24


def normal(number: int, seed: int, *, shift: float = 0.0) -> np.ndarray:
    """Embeddings with correlated dimensions; `shift` moves them along a direction in which they vary little."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(WIDTH, WIDTH)) * np.linspace(3.0, 0.5, WIDTH)
    coordinates = generator.normal(size=(number, WIDTH))
    coordinates[:, -1] += shift
    return coordinates @ mixing.T


def test_at_most_the_stated_share_of_new_images_of_the_same_kind_is_outside() -> None:
    cohort = TrainingCohort.fit(normal(500, 0), normal(200, 1))
    known = cohort.distances(normal(200, 1))
    assert np.mean(known <= cohort.threshold) >= SHARE_BELOW
    assert abs(cohort.is_outside(cohort.distances(normal(2000, 2))).mean() - 0.05) < 0.04
    assert 0.8 < cohort.distances(normal(2000, 2)).mean() < 1.05  # shrinkage makes it smaller than 1


def test_a_shift_along_a_direction_of_little_variance_is_found_although_it_is_small() -> None:
    cohort = TrainingCohort.fit(normal(500, 0), normal(200, 1))
    shifted = normal(200, 3, shift=8.0)
    plain = (
        np.linalg.norm(shifted - cohort.mean, axis=1).mean()
        / np.linalg.norm(normal(200, 4) - cohort.mean, axis=1).mean()
    )
    assert plain < 1.2
    assert cohort.is_outside(cohort.distances(shifted)).mean() > 0.95


def test_the_distance_equals_the_definition_of_mahalanobis() -> None:
    from sklearn.covariance import LedoitWolf

    train, new = normal(400, 0), normal(50, 5)
    cohort = TrainingCohort.fit(train, normal(100, 1))
    expected = np.sqrt(LedoitWolf().fit(train).mahalanobis(new) / WIDTH)
    np.testing.assert_allclose(cohort.distances(new), expected, rtol=1e-6)


def test_a_cohort_needs_training_and_validation_images() -> None:
    many = table(60)
    with pytest.raises(DataError, match="0 images of the val split"):
        TrainingCohort.of(many)
    images = tuple(replace(one, split="val") if n % 2 else one for n, one in enumerate(many.images))
    assert TrainingCohort.of(replace(many, images=images)).num_val == 30
