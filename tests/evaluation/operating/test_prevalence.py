"""Resampling to a prevalence keeps patients whole, has the requested share, and changes what depends on it."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.evaluation.operating.cases import Cases
from medvit.evaluation.operating.prevalence import at_prevalence, metrics_at


def drawn(number: int = 300, images: int = 2) -> Cases:
    generator = np.random.default_rng(0)
    truth = np.arange(number) % 2 == 1
    scores = 1 / (1 + np.exp(-generator.normal(3.0 * truth - 1.5, 1.0)))
    patients = tuple(f"p{n // images}" for n in range(number * images))
    noise = generator.normal(0.0, 0.01, number * images)
    return Cases(np.repeat(truth, images), np.repeat(scores, images) + noise, patients)


def test_patients_are_drawn_whole_at_the_requested_share() -> None:
    cases = drawn()
    member = np.array([int(name[1:]) for name in cases.patients])
    for those in at_prevalence(cases, 0.1, 20, seed=0):
        counts = np.bincount(those, minlength=len(cases)).reshape(-1, 2)
        assert (counts[:, 0] == counts[:, 1]).all()
        patients = member[those][::2]
        assert len(patients) == 300
        assert cases.is_positive[those].mean() == pytest.approx(0.1)


def test_at_nine_healthy_patients_for_one_ill_precision_falls_as_bayes_theorem_says() -> None:
    cases = drawn(2000, images=1)
    found = metrics_at(cases, 0.1, resamples=100, seed=0)
    called = cases.scores >= 0.5
    sensitivity, specificity = called[cases.is_positive].mean(), (~called[~cases.is_positive]).mean()
    assert found["accuracy"].value == pytest.approx(0.1 * sensitivity + 0.9 * specificity, abs=0.005)
    assert found["sensitivity"].value == pytest.approx(sensitivity, abs=0.01)
    balanced = metrics_at(cases, 0.5, resamples=100, seed=0)
    assert found["average_precision"].value < balanced["average_precision"].value - 0.02
    assert found["auroc"].value == pytest.approx(balanced["auroc"].value, abs=0.005)


def test_without_patients_of_both_kinds_there_are_no_metrics() -> None:
    assert metrics_at(Cases(np.array([True]), np.array([0.5]), ("p",)), 0.1, resamples=10, seed=0) == {}
