"""The expected calibration error and its bins equal their definitions."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from medvit.metrics._probability_bins import NUM_BINS
from medvit.metrics.ece import expected_calibration_error, reliability


def test_calibration_error_of_an_overconfident_model_is_its_excess():
    truth = np.array([0, 1] * 50)
    probabilities = np.tile([0.95, 0.05], (100, 1))
    assert expected_calibration_error(truth, probabilities) == pytest.approx(0.45)
    assert reliability(truth, probabilities) == [(pytest.approx(0.95), 0.5, 1.0)]


def test_the_bins_are_those_of_the_calibration_curve_of_scikit_learn():
    generator = np.random.default_rng(0)
    truth, probabilities = generator.integers(0, 3, 200), generator.dirichlet(np.ones(3), 200)
    hits = probabilities.argmax(axis=1) == truth
    accuracy, confidence = calibration_curve(hits, probabilities.max(axis=1), n_bins=NUM_BINS)
    bins = reliability(truth, probabilities)
    np.testing.assert_allclose([(one, other) for one, other, _ in bins], np.stack([confidence, accuracy], axis=1))
    assert sum(share for *_, share in bins) == pytest.approx(1.0)


def test_a_certain_prediction_falls_in_the_last_bin():
    assert reliability(np.array([0, 1]), np.array([[1.0, 0.0], [0.05, 0.95]])) == [(0.975, 1.0, 1.0)]
