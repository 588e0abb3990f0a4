"""Temperature scaling undoes a factor of the logits, changes no decision, and is never worse on its own images."""

from __future__ import annotations

import numpy as np
import pytest
from numpy import ndarray as Array
from sklearn.isotonic import IsotonicRegression

from medvit.errors import DataError
from medvit.metrics.confusion import median_grade
from medvit.metrics.ece import expected_calibration_error
from medvit.models.calibration import Calibration, fit_calibration, log_loss, tempered

NUMBER = 3000


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))


def drawn(task: str, factor: float, classes: int = 3) -> tuple[Array, Array]:
    """Truth drawn from calibrated probabilities, and the probabilities of logits multiplied by a factor."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0.0, 1.5, (NUMBER, classes))
    if task == "multilabel":
        return (generator.random((NUMBER, classes)) < sigmoid(logits)).astype(float), sigmoid(factor * logits)
    if task == "ordinal":
        steps = np.sort(logits, axis=1)[:, ::-1]
        grades = (generator.random((NUMBER, 1)) < sigmoid(steps)).sum(axis=1)
        return grades, -np.diff(
            np.hstack([np.ones((NUMBER, 1)), sigmoid(factor * steps), np.zeros((NUMBER, 1))]), axis=1
        )
    probabilities = softmax(logits)
    truth = (generator.random((NUMBER, 1)) > np.cumsum(probabilities, axis=1)).sum(axis=1)
    return truth, softmax(factor * logits).astype(np.float32)


PATIENTS = [f"p{n}" for n in range(NUMBER)]


@pytest.mark.parametrize("task", ["classification", "ordinal", "multilabel", "slide"])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_factor_by_which_the_logits_were_multiplied(task: str, factor: float) -> None:
    truth, probabilities = drawn(task, factor)
    found = fit_calibration(task, truth, probabilities, PATIENTS, "temperature")
    assert len(found.temperatures) == (3 if task == "multilabel" else 1)
    assert all(one == pytest.approx(factor, rel=0.1) for one in found.temperatures)
    after = found.apply(task, probabilities)
    assert log_loss(task, truth, after) <= log_loss(task, truth, probabilities)


@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_no_decision_changes_under_a_temperature(temperature: float) -> None:
    calibration = Calibration(method="temperature", temperatures=(temperature,), patients=100)
    _, probabilities = drawn("classification", 1.0)
    after = calibration.apply("classification", probabilities)
    assert (after.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    assert after.sum(axis=1) == pytest.approx(np.ones(NUMBER), abs=1e-6)
    _, grades = drawn("ordinal", 1.0)
    after = calibration.apply("ordinal", grades)
    assert (median_grade(after) == median_grade(grades)).all()
    assert (after >= 0.0).all()
    assert after.sum(axis=1) == pytest.approx(np.ones(NUMBER))


def test_a_temperature_of_probabilities_is_one_of_logits() -> None:
    logits = np.random.default_rng(1).normal(0.0, 2.0, (50, 4))
    assert tempered("classification", softmax(logits), (2.0,)) == pytest.approx(softmax(logits / 2.0), abs=1e-6)


def test_an_overconfident_model_is_calibrated_on_other_images() -> None:
    truth, probabilities = drawn("classification", 3.0, classes=2)
    half = NUMBER // 2
    found = fit_calibration("classification", truth[:half], probabilities[:half], PATIENTS[:half], "temperature")
    before = expected_calibration_error(truth[half:], probabilities[half:])
    after = expected_calibration_error(truth[half:], found.apply("classification", probabilities[half:]))
    assert before > 0.1
    assert after < 0.04


def test_isotonic_regression_is_that_of_scikit_learn_and_never_certain() -> None:
    truth, probabilities = drawn("classification", 3.0, classes=2)
    found = fit_calibration("classification", truth, probabilities, PATIENTS)
    assert found.method == "isotonic"
    after = found.apply("classification", probabilities.astype(np.float64))
    least = 1 / (NUMBER + 2)
    reference = IsotonicRegression(y_min=least, y_max=1 - least).fit(probabilities[:, 1].astype(float), truth == 1)
    assert after[:, 1] == pytest.approx(reference.predict(probabilities[:, 1].astype(float)), abs=1e-6)
    assert after.min() > 0.0
    order = np.argsort(probabilities[:, 1], kind="stable")
    assert (np.diff(after[order, 1]) >= 0.0).all()


def test_few_patients_get_a_temperature_and_very_few_nothing() -> None:
    truth, probabilities = drawn("classification", 3.0, classes=2)
    assert fit_calibration("classification", truth[:500], probabilities[:500], PATIENTS[:500]).method == "temperature"
    with pytest.raises(DataError, match="needs at least 30 patients; found 29"):
        fit_calibration("classification", truth[:29], probabilities[:29], PATIENTS[:29])
    with pytest.raises(DataError, match="for two classes or several labels"):
        fit_calibration("classification", *drawn("classification", 1.0), PATIENTS, "isotonic")


def test_missing_labels_do_not_count() -> None:
    truth, probabilities = drawn("multilabel", 2.0)
    holes = truth.copy()
    holes[::2, 0] = np.nan
    found = fit_calibration("multilabel", holes, probabilities, PATIENTS, "temperature").temperatures
    known = fit_calibration("multilabel", truth[1::2], probabilities[1::2], PATIENTS[1::2], "temperature").temperatures
    assert found[0] == pytest.approx(known[0])


def test_a_calibration_survives_being_saved() -> None:
    truth, probabilities = drawn("classification", 3.0, classes=2)
    for method in ("temperature", "isotonic"):
        found = fit_calibration("classification", truth, probabilities, PATIENTS, method)  # type: ignore[arg-type]
        again = Calibration.parse_saved(found.tree(), source="test")
        assert (again.apply("classification", probabilities) == found.apply("classification", probabilities)).all()
