"""Rates are those of the confusion matrix, their intervals cover, and predictive values follow the prevalence."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from medvit.evaluation.operating.cases import Cases
from medvit.evaluation.operating.rates import derived, rates_of

HOW = {"resamples": 500, "seed": 0}


def counted(found: int, missed: int, alarms: int, rejected: int, images: int = 1) -> Cases:
    """Cases with these counts at a threshold of 0.5; each patient has several images of the same call."""
    truth = np.repeat([True, True, False, False], (found, missed, alarms, rejected))
    scores = np.repeat([0.9, 0.1, 0.9, 0.1], (found, missed, alarms, rejected))
    patients = [f"p{n}" for n in range(len(truth))]
    return Cases(np.repeat(truth, images), np.repeat(scores, images), tuple(np.repeat(patients, images)))


def test_rates_are_those_of_the_confusion_matrix() -> None:
    found = rates_of(counted(45, 5, 20, 180), 0.5, 0.2, **HOW)
    values = {name: estimate.value for name, estimate in found.rates.items()}
    expected = {"sensitivity": 0.9, "specificity": 0.9, "ppv": 45 / 65, "npv": 180 / 185}
    expected |= {"lr_positive": 0.9 / 0.1, "lr_negative": 0.1 / 0.9}
    assert values == pytest.approx(expected)
    assert {name: one.value for name, one in found.per_thousand.items()} == pytest.approx(
        {"found": 180, "missed": 20, "false_alarms": 80}
    )


def test_at_the_prevalence_of_the_data_predictive_values_are_shares_of_the_calls() -> None:
    found = rates_of(counted(40, 10, 30, 120), 0.5, 50 / 200, **HOW)
    assert found.rates["ppv"].value == pytest.approx(40 / 70)
    assert found.rates["npv"].value == pytest.approx(120 / 130)


def test_the_interval_of_one_case_per_patient_is_that_of_the_jeffreys_prior() -> None:
    found = rates_of(counted(45, 5, 20, 180), 0.5, 0.2, **HOW).rates
    assert (found["sensitivity"].low, found["sensitivity"].high) == pytest.approx(
        beta.ppf((0.025, 0.975), 45.5, 5.5), abs=0.002
    )
    assert (found["specificity"].low, found["specificity"].high) == pytest.approx(
        beta.ppf((0.025, 0.975), 180.5, 20.5), abs=0.002
    )


@pytest.mark.parametrize("images", [1, 4])
def test_all_calls_right_is_no_proof_that_the_model_makes_no_error(images: int) -> None:
    found = rates_of(counted(12, 0, 0, 12, images), 0.5, 0.1, **HOW).rates
    assert found["sensitivity"].high == found["specificity"].high == 1.0
    assert found["sensitivity"].low == pytest.approx(beta.ppf(0.025, 12.5, 0.5), abs=0.01)
    assert found["ppv"].low < 0.7
    assert found["lr_positive"].value == np.inf
    assert np.isfinite(found["lr_positive"].low)


def test_more_images_of_the_same_patients_do_not_narrow_the_intervals() -> None:
    once, tenfold = (rates_of(counted(30, 10, 10, 30, n), 0.5, 0.5, **HOW).rates for n in (1, 10))
    for name in ("sensitivity", "ppv", "npv"):
        widths = [one[name].high - one[name].low for one in (once, tenfold)]
        assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_intervals_contain_the_true_rates_of_the_population_in_about_95_percent() -> None:
    generator = np.random.default_rng(1)
    truth, inside = (
        {"sensitivity": 0.85, "ppv": 0.0, "lr_positive": 0.0},
        dict.fromkeys(("sensitivity", "ppv", "lr_positive"), 0),
    )
    exact = derived(np.array([0.85]), np.array([0.8]), 0.1)
    truth |= {name: float(exact[name][0]) for name in ("ppv", "lr_positive")}
    for _ in range(300):
        found, rejected = generator.binomial(40, 0.85), generator.binomial(60, 0.8)
        rates = rates_of(counted(found, 40 - found, 60 - rejected, rejected), 0.5, 0.1, **HOW).rates
        for name in truth:
            inside[name] += rates[name].low <= truth[name] <= rates[name].high
    assert all(0.91 <= number / 300 <= 0.99 for number in inside.values()), inside


def test_a_split_without_positive_cases_has_an_undefined_sensitivity() -> None:
    found = rates_of(counted(0, 0, 5, 15), 0.5, 0.1, **HOW).rates
    assert np.isnan(found["sensitivity"].value)
    assert found["specificity"].value == 0.75
