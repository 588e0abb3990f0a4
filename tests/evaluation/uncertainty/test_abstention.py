"""The metric of all patients is that of the report; the area of a perfect order is the smallest, that of a constant
confidence the risk itself.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvit.evaluation import Evaluation
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.evaluation.tasks.regression import evaluate_values
from medvit.evaluation.uncertainty.abstention import AGREEMENT, RankedPatients, abstention_curves, num_kept
from medvit.records import Row


def rows(patients: int, images: int) -> list[Row]:
    return [
        Row(f"i{n}", f"p{n // images}", f"i{n}", f"i{n}", "OP", "image", "d", "test", (3, 8, 8), "uint8", "0")
        for n in range(patients * images)
    ]


def evaluated(confidence: np.ndarray, is_right: np.ndarray, images: int = 1) -> Evaluation:
    truth = np.where(is_right, 0, 1)
    probabilities = np.stack([confidence, 1.0 - confidence], axis=1)
    found = rows(len(truth) // images, images)
    return evaluate_classes(found, truth, probabilities, ("a", "b"), resamples=100, seed=0, notes=())


@pytest.mark.parametrize("images", [1, 3])
def test_the_accuracy_of_all_patients_is_that_of_the_report(images: int) -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1.0, 60)
    evaluation = evaluated(confidence, generator.random(60) < confidence, images)
    (curve,) = abstention_curves(evaluation, resamples=100, seed=0)
    assert curve.values[1.0].value == pytest.approx(evaluation.metrics["accuracy"].value)
    assert curve.random == pytest.approx(1.0 - evaluation.metrics["accuracy"].value)
    assert curve.best <= curve.aurc.value


def test_a_perfect_order_has_the_area_of_its_definition() -> None:
    is_right = np.arange(40) >= 10
    (curve,) = abstention_curves(evaluated(0.6 + 0.3 * np.arange(40) / 40, is_right), resamples=100, seed=0)
    expected = np.mean([max(0, kept - 30) / kept for kept in range(1, 41)])
    assert curve.aurc.value == curve.best == pytest.approx(expected)
    assert curve.values[0.7].value == 1.0
    assert curve.values[0.9].value == pytest.approx(30 / 36)


def test_equal_confidence_is_a_random_order() -> None:
    (curve,) = abstention_curves(evaluated(np.full(40, 0.8), np.arange(40) >= 10), resamples=100, seed=0)
    assert curve.aurc.value == pytest.approx(curve.random)
    assert all(one.value == pytest.approx(0.75) for one in curve.values.values())


def test_random_orders_have_the_risk_of_all_patients_on_average() -> None:
    generator = np.random.default_rng(1)
    risks, every = (generator.random(50) < 0.3).astype(float), np.arange(50)
    areas = [RankedPatients(risks, np.ones(50), generator.random(50)).curve(every).mean() for _ in range(2000)]
    assert np.mean(areas) == pytest.approx(risks.mean(), abs=4.0 * np.std(areas) / np.sqrt(2000))


def test_all_images_of_a_patient_are_kept_together() -> None:
    confidence = np.repeat(np.linspace(0.9, 0.6, 20), 2)
    is_right = np.arange(40) < 36
    (curve,) = abstention_curves(evaluated(confidence, is_right, images=2), resamples=100, seed=0)
    assert num_kept(0.9, 20) == 18
    assert curve.values[0.9].value == 1.0


def test_numbers_are_ordered_only_by_the_spread_of_an_ensemble() -> None:
    generator = np.random.default_rng(2)
    spread = generator.uniform(0.1, 5.0, 200)
    truth = generator.normal(50.0, 10.0, 200)
    plain = evaluate_values(
        rows(200, 1), truth, truth + spread * generator.normal(size=200), "age", resamples=100, seed=0
    )
    assert not abstention_curves(plain, resamples=100, seed=0)
    (curve,) = abstention_curves(replace(plain, columns={**plain.columns, "spread": spread}), resamples=100, seed=0)
    assert curve.order == AGREEMENT
    assert curve.values[1.0].value == pytest.approx(plain.metrics["mae"].value)
    assert curve.values[0.5].value < 0.8 * curve.values[1.0].value


def test_few_patients_have_no_curve() -> None:
    assert not abstention_curves(evaluated(np.full(19, 0.8), np.arange(19) > 3), resamples=100, seed=0)
