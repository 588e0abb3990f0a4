"""Bins of the reliability figure have intervals over patients, and count every image."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.evaluation import Evaluation
from medvit.evaluation.report.plots import reliability_figure, reliability_intervals
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.metrics.ece import reliability
from medvit.records import Row
from medvit.statistics.proportion import wilson


def evaluated(images: int) -> Evaluation:
    """Return 60 patients with some equal images each."""
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1.0, 60).repeat(images)
    truth = (generator.random(60).repeat(images) > confidence).astype(int)
    rows = [
        Row(f"i{n}", f"p{n // images}", f"i{n}", f"i{n}", "OP", "image", "d", "test", (3, 8, 8), "uint8", "0")
        for n in range(60 * images)
    ]
    probabilities = np.stack([confidence, 1.0 - confidence], axis=1)
    return evaluate_classes(rows, truth, probabilities, ("no", "yes"), resamples=100, seed=0, notes=())


def test_the_accuracy_of_each_bin_is_that_of_the_calibration_error_and_inside_of_wilsons_interval() -> None:
    evaluation = evaluated(1)
    expected = reliability(evaluation.truth, evaluation.probabilities)
    found = list(reliability_intervals(evaluation).values())
    assert [(one, accuracy.value) for one, accuracy in found] == [(one, accuracy) for one, accuracy, _ in expected]
    for (_, accuracy), (_, value, share) in zip(found, expected, strict=True):
        assert (accuracy.low, accuracy.high) == pytest.approx(wilson(value, round(60 * share)))


def test_equal_images_of_a_patient_do_not_narrow_the_intervals() -> None:
    one, four = (reliability_intervals(evaluated(images)) for images in (1, 4))
    for number, (confidence, accuracy) in one.items():
        again = four[number][1]
        assert four[number][0] == pytest.approx(confidence)
        assert again.value == accuracy.value
        assert again.high - again.low >= 0.99 * (accuracy.high - accuracy.low)


def test_every_image_is_counted_in_the_figure() -> None:
    axes, below = reliability_figure(evaluated(2)).axes
    assert sum(int(one.get_text()) for one in below.texts) == 120
    assert len(axes.containers) == len(below.texts)
