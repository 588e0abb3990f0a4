"""The effect of a calibration is estimated on other patients, never on those that it was fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import DataError
from medvit.evaluation.calibrating import calibration_metrics, cross_calibrated
from medvit.metrics.calibration.brier import brier
from medvit.models.calibration import fit_calibration


def overconfident(number: int, images: int = 1) -> tuple[np.ndarray, np.ndarray, list[str]]:
    generator = np.random.default_rng(0)
    logits = generator.normal(0.0, 1.0, number)
    truth = (generator.random(number) < 1 / (1 + np.exp(-logits))).astype(int)
    scores = 1 / (1 + np.exp(-3.0 * logits))
    patients = [f"p{n // images}" for n in range(number)]
    return truth, np.stack([1 - scores, scores], axis=1), patients


def test_cross_calibration_improves_an_overconfident_model() -> None:
    truth, probabilities, patients = overconfident(600)
    after = cross_calibrated("classification", truth, probabilities, patients, "temperature", 0)
    before, adjusted = (calibration_metrics("classification", truth, p) for p in (probabilities, after))
    assert all(adjusted[name] < before[name] - 0.03 for name in before)


def test_images_are_calibrated_on_other_patients_than_their_own() -> None:
    truth, probabilities, patients = overconfident(200, images=4)
    after = cross_calibrated("classification", truth, probabilities, patients, "isotonic", 0)
    changed = truth.copy()
    changed[:4] = 1 - changed[:4]
    again = cross_calibrated("classification", changed, probabilities, patients, "isotonic", 0)
    assert (after[:4] == again[:4]).all()
    assert (after[4:] != again[4:]).any()


def test_labels_are_averaged_without_missing_ones() -> None:
    truth = np.array([[1.0, np.nan], [0.0, 1.0], [1.0, 0.0]])
    probabilities = np.array([[0.8, 0.9], [0.3, 0.6], [0.9, 0.2]])
    found = calibration_metrics("multilabel", truth, probabilities)
    each = [
        brier(np.array([1, 0, 1]), np.array([[0.2, 0.8], [0.7, 0.3], [0.1, 0.9]])),
        brier(np.array([1, 0]), np.array([[0.4, 0.6], [0.8, 0.2]])),
    ]
    assert found["brier"] == pytest.approx(np.mean(each))


def test_too_few_patients_for_the_parts_are_refused() -> None:
    truth, probabilities, patients = overconfident(37)
    assert fit_calibration("classification", truth, probabilities, patients).patients == 37
    with pytest.raises(DataError, match="needs at least 38 patients; found 37"):
        cross_calibrated("classification", truth, probabilities, patients, "temperature", 0)
