"""Errors of volumes equal their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_absolute_percentage_error

from medvit.metrics.volumes.volume_bias import volume_bias
from medvit.metrics.volumes.volume_error import volume_error
from medvit.metrics.volumes.volume_error_relative import volume_error_relative


def test_errors_are_those_of_scikit_learn() -> None:
    true, found = np.random.default_rng(0).uniform(1.0, 90.0, (2, 40))
    assert volume_error(true, found) == pytest.approx(mean_absolute_error(true, found))
    assert volume_error_relative(true, found) == pytest.approx(mean_absolute_percentage_error(true, found))
    assert volume_bias(true, found) == pytest.approx(found.mean() - true.mean())


def test_images_without_the_class_have_no_relative_error() -> None:
    true, found = np.array([0.0, 4.0, 2.0]), np.array([1.0, 3.0, 0.0])
    assert volume_error_relative(true, found) == pytest.approx((0.25 + 1.0) / 2)
    assert volume_error(true, found) == pytest.approx((1 + 1 + 2) / 3)
    assert math.isnan(volume_error_relative(np.zeros(2), np.ones(2)))
    assert math.isnan(volume_error(np.zeros(0), np.zeros(0)))
