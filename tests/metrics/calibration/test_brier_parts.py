"""The parts of the Brier score add up to it, and equal Murphy's definition where it applies."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.metrics import Classified, ClassMetric, metrics
from medvit.metrics._probability_bins import brier_parts
from medvit.metrics.calibration.brier import brier
from medvit.metrics.calibration.ece_by_chance import ece_by_chance
from medvit.metrics.ece import expected_calibration_error


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_parts_add_up_to_the_brier_score(num_classes: int) -> None:
    generator = np.random.default_rng(num_classes)
    truth, probabilities = generator.integers(0, num_classes, 70), generator.dirichlet(np.ones(num_classes), 70)
    images = Classified(truth, probabilities, [str(grade) for grade in range(num_classes)])
    found = {one.name: one.of_all(images) for one in metrics(ClassMetric) if "brier" in one.name and one.of_all}
    total = found["brier_reliability"] - found["brier_resolution"] + found["brier_uncertainty"]
    assert total == pytest.approx(found["brier"]) == pytest.approx(brier(truth, probabilities))


def test_the_parts_are_those_of_murphy_if_equal_probabilities_share_a_bin() -> None:
    generator = np.random.default_rng(0)
    forecast = generator.choice([0.05, 0.25, 0.65, 0.95], 200)
    truth = (generator.random(200) < forecast**1.5).astype(int)
    found = brier_parts(truth, np.stack([1 - forecast, forecast], axis=1))
    reliability = resolution = 0.0
    for value in np.unique(forecast):
        own = truth[forecast == value]
        reliability += len(own) / 200 * (value - own.mean()) ** 2
        resolution += len(own) / 200 * (own.mean() - truth.mean()) ** 2
    expected = (reliability, resolution, truth.mean() * (1 - truth.mean()))
    assert (found.reliability, found.resolution, found.uncertainty) == pytest.approx([2 * one for one in expected])


@pytest.mark.parametrize("num_images", [30, 400])
def test_the_calibration_error_by_chance_is_that_of_calibrated_models(num_images: int) -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(3), num_images)
    errors = []
    for _ in range(1000):
        truth = (generator.random((num_images, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
        errors.append(expected_calibration_error(np.minimum(truth, 2), probabilities))
    assert ece_by_chance(probabilities) == pytest.approx(np.mean(errors), rel=0.06)


def test_certain_predictions_have_no_calibration_error_by_chance() -> None:
    assert ece_by_chance(np.eye(3)) == 0.0
