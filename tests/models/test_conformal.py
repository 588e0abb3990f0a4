"""Prediction sets and intervals contain the truth of new patients with the stated probability, and no more often."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from medvit.errors import DataError
from medvit.models.conformal import (
    Conformal,
    ConformalMethod,
    class_scores,
    conformal_limit,
    fit_intervals,
    fit_sets,
    patients_needed,
)

SETS: tuple[ConformalMethod, ...] = ("lac", "aps", "raps")


def drawn(generator: np.random.Generator, patients: int, images: int = 1) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return truth, probabilities of 4 classes, and patients, whose images are alike; the model is overconfident."""
    true = generator.integers(0, 4, patients).repeat(images)
    logits = (generator.normal(0.0, 1.0, (patients, 4)) + 1.2 * np.eye(4)[true[::images]]).repeat(images, axis=0)
    powers = np.exp(2.5 * (logits + generator.normal(0.0, 0.2, logits.shape)))
    names = [f"p{n // images}" for n in range(patients * images)]
    return true, powers / powers.sum(axis=1, keepdims=True), names


@pytest.mark.parametrize("method", SETS)
@pytest.mark.parametrize("images", [1, 5])
@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_sets_cover_new_patients_within_the_tolerance_of_the_binomial(
    method: ConformalMethod, images: int, coverage: float
) -> None:
    generator, covered = np.random.default_rng(0), []
    for _ in range(400):
        truth, probabilities, patients = drawn(generator, 40, images)
        found = fit_sets("classification", truth, probabilities, [], patients, method=method, coverage=coverage)
        true, shown, _ = drawn(generator, 20, images)
        covered.append(found.sets(shown)[np.arange(len(true)), true].mean())
    error = np.std(covered) / math.sqrt(len(covered))
    assert np.mean(covered) > coverage - 3.0 * error
    # Split conformal prediction covers at most 1 / (patients + 1) more; the images of a patient may add some to this.
    assert np.mean(covered) < coverage + 1.0 / 41.0 + 3.0 * error + 0.03 * (images > 1)


def test_images_of_a_patient_taken_as_independent_would_cover_too_few_patients() -> None:
    """Of 9 patients, the limit is the score of the last; of 180 images, it would be an image of the last but one."""
    generator, by_patient, by_image = np.random.default_rng(0), [], []
    for _ in range(4000):
        scores = generator.normal(size=9).repeat(20) + generator.normal(0.0, 0.01, 180)
        new = generator.normal() + generator.normal(0.0, 0.01)
        by_patient.append(new <= conformal_limit(scores, [f"p{n // 20}" for n in range(180)], 0.85))
        by_image.append(new <= conformal_limit(scores, [f"p{n}" for n in range(180)], 0.85))
    assert np.mean(by_patient) == pytest.approx(0.9, abs=0.02)
    assert np.mean(by_image) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("number", [4, 5, 6])
def test_the_marginal_coverage_is_exact_over_all_orders_of_few_patients(number: int) -> None:
    """Of all orders of n + 1 different scores, the last is covered in exactly ceil((n + 1) * coverage) / (n + 1)."""
    patients = [f"p{n}" for n in range(number)]
    for coverage in (Fraction(1, 2), Fraction(3, 4)):
        expected = Fraction(math.ceil((number + 1) * coverage), number + 1)
        orders = list(itertools.permutations(range(number + 1)))
        covered = sum(
            order[-1] <= conformal_limit(np.array(order[:-1], float), patients, float(coverage)) for order in orders
        )
        assert Fraction(covered, len(orders)) == expected


def test_the_limit_is_the_score_of_the_rank_of_split_conformal_prediction() -> None:
    scores = np.random.default_rng(0).normal(size=99)
    for coverage in (0.5, 0.8, 0.9, 0.95, 0.99):
        rank = math.ceil(round(100 * coverage, 6))
        assert conformal_limit(scores, [f"p{n}" for n in range(99)], coverage) == np.sort(scores)[rank - 1]


def test_repeated_images_of_a_patient_change_nothing() -> None:
    scores = np.random.default_rng(1).normal(size=30)
    patients = [f"p{n}" for n in range(30)]
    repeats = np.arange(1, 31)
    again = conformal_limit(scores.repeat(repeats), np.array(patients).repeat(repeats).tolist(), 0.9)
    assert again == conformal_limit(scores, patients, 0.9)


@pytest.mark.parametrize(("coverage", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_one_patient_fewer_than_needed_is_refused(coverage: float, needed: int) -> None:
    assert patients_needed(coverage) == needed
    truth, probabilities, patients = drawn(np.random.default_rng(0), needed, 3)
    how = {"method": "lac", "coverage": coverage}
    fit_sets("classification", truth, probabilities, [], patients, **how)  # type: ignore[arg-type]
    few = slice(0, 3 * (needed - 1))
    with pytest.raises(DataError, match=rf"needs at least {needed} calibration patients; found {needed - 1}"):
        fit_sets("classification", truth[few], probabilities[few], [], patients[few], **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", SETS)
def test_sets_of_a_higher_coverage_contain_those_of_a_lower_one(method: ConformalMethod) -> None:
    truth, probabilities, patients = drawn(np.random.default_rng(2), 200)
    sizes, inner = [], np.zeros(probabilities.shape, dtype=bool)
    for coverage in (0.5, 0.7, 0.9, 0.99):
        found = fit_sets("classification", truth, probabilities, [], patients, method=method, coverage=coverage)
        sets = found.sets(probabilities)
        assert not (inner & ~sets).any()
        inner = sets
        sizes.append(sets.sum(axis=1).mean())
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_the_scores_are_those_of_their_papers() -> None:
    probabilities = np.array([[0.2, 0.5, 0.3]])
    assert class_scores("lac", probabilities) == pytest.approx(np.array([[0.8, 0.5, 0.7]]))
    assert class_scores("aps", probabilities) == pytest.approx(np.array([[1.0, 0.5, 0.8]]))
    assert class_scores("raps", probabilities) == pytest.approx(np.array([[1.02, 0.5, 0.81]]))


def test_each_label_has_a_limit_from_the_patients_who_have_it() -> None:
    generator = np.random.default_rng(3)
    probabilities = generator.random((400, 2))
    truth = (generator.random((400, 2)) < probabilities**3).astype(float)
    truth[:350, 1] = np.nan
    patients = [f"p{n}" for n in range(400)]
    found = fit_sets("multilabel", truth, probabilities, ["a", "b"], patients, method="lac", coverage=0.9)
    assert found.patients == (400, 50)
    sets = found.label_sets(probabilities)
    assert sets.shape == (400, 2, 2)
    for label in range(2):
        known = np.flatnonzero(~np.isnan(truth[:, label]))
        covered = sets[known, label, truth[known, label].astype(int)]
        assert covered.mean() == pytest.approx(0.9, abs=1.0 / known.size + 0.02)
    truth[:392, 1] = np.nan
    with pytest.raises(DataError, match="patients with the label b; found 8"):
        fit_sets("multilabel", truth, probabilities, ["a", "b"], patients, method="lac", coverage=0.9)


def numbers(generator: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return truth, predicted number and spread; errors are proportional to the spread."""
    spread = generator.uniform(0.2, 4.0, patients)
    predicted = generator.normal(50.0, 10.0, patients)
    return predicted + spread * generator.normal(size=patients), predicted, spread, [f"p{n}" for n in range(patients)]


@pytest.mark.parametrize("method", ["residual", "normalized"])
def test_intervals_cover_new_patients(method: ConformalMethod) -> None:
    generator, covered, apart = np.random.default_rng(4), [], []
    for _ in range(300):
        truth, predicted, spread, patients = numbers(generator, 49)
        found = fit_intervals(truth, predicted, spread, patients, method=method, coverage=0.9)
        truth, predicted, spread, _ = numbers(generator, 50)
        low, high = found.intervals(predicted, spread).T
        inside = (low <= truth) & (truth <= high)
        covered.append(inside.mean())
        apart.append(inside[spread < 1.0].mean() - inside[spread > 3.0].mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.012)  # 45 of 50 ranks exactly, and 3 standard errors
    assert (abs(np.mean(apart)) < 0.02) == (method == "normalized")


@pytest.mark.parametrize("method", [*SETS, "residual"])
def test_a_stored_conformal_prediction_gives_the_same_sets(method: ConformalMethod) -> None:
    truth, probabilities, patients = drawn(np.random.default_rng(5), 100)
    if method == "residual":
        found = fit_intervals(probabilities[:, 0], probabilities[:, 1], None, patients, method=method, coverage=0.9)
    else:
        found = fit_sets("classification", truth, probabilities, [], patients, method=method, coverage=0.9)
    again = Conformal.parse(found.tree())
    assert again == found
    if method != "residual":
        assert (again.sets(probabilities) == found.sets(probabilities)).all()
        assert found.sets(probabilities)[np.arange(100), truth].sum() >= 91  # the limit itself is inside
