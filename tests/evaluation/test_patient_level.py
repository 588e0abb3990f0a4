"""Patients are scored by the mean over their images, and only if that differs from the scores of images."""

import numpy as np
import pytest

from medvit.evaluation.aggregation import answers, of_patients, with_patients
from medvit.evaluation.tasks.classification import classification_metrics, evaluate_classes
from medvit.metrics import metric_title
from medvit.records import Row
from medvit.statistics.bootstrap import bootstrap

CLASSES = ("normal", "tumor")


def rows(patients):
    identity = ("s", "e", "SM", "slide", "tiny", "test", (3, 8, 8), "uint8", "")
    return [Row(f"i{number}", patient, *identity) for number, patient in enumerate(patients)]


def probabilities(*tumor):
    return np.array([(1 - p, p) for p in tumor])


def evaluate(patients, truth, found):
    images = evaluate_classes(rows(patients), np.array(truth), found, CLASSES, resamples=50, seed=0)
    return with_patients(images, resamples=50, seed=0)


def test_a_patient_has_the_mean_of_the_probabilities_of_the_images():
    found = of_patients(answers(rows("abab"), np.array([0, 1, 0, 1]), probabilities(0.1, 0.8, 0.3, 0.6)))
    assert found.patients == ("a", "b")
    assert found.truth.tolist() == [0, 1]
    np.testing.assert_allclose(found.probabilities[:, 1], [0.2, 0.7])


def test_metrics_of_patients_are_those_of_their_means_with_the_bootstrap_of_patients():
    patients, truth, found = "aabbccdd", [0, 0, 1, 1, 0, 0, 1, 1], probabilities(0.9, 0, 0.4, 0.9, 0.1, 0.2, 0.3, 0.2)
    evaluation = evaluate(patients, truth, found)
    expected = bootstrap(
        lambda drawn: classification_metrics(
            np.array([0, 1, 0, 1])[drawn], probabilities(0.45, 0.65, 0.15, 0.25)[drawn], CLASSES
        ),
        list("abcd"),
        resamples=50,
        seed=0,
    )
    for name, estimate in expected.items():
        assert evaluation.metrics[f"patient_{name}"].value == pytest.approx(estimate.value, nan_ok=True)
        if evaluation.metrics[f"patient_{name}"].method == "bootstrap":
            assert evaluation.metrics[f"patient_{name}"].low == pytest.approx(estimate.low, nan_ok=True)
    assert evaluation.metrics["brier"].value != evaluation.metrics["patient_brier"].value
    assert "4 patients: each has the mean of the probabilities of its images" in evaluation.notes


def test_with_one_image_a_patient_nothing_is_said_twice():
    evaluation = evaluate("abcd", [0, 1, 0, 1], probabilities(0.1, 0.9, 0.4, 0.6))
    assert "brier" in evaluation.metrics
    assert not any(name.startswith("patient_") for name in evaluation.metrics)


def test_patients_with_images_of_several_classes_are_counted_and_left_out():
    evaluation = evaluate("aabbcc", [0, 1, 1, 1, 0, 0], probabilities(0.1, 0.9, 0.8, 0.6, 0.3, 0.2))
    assert evaluation.metrics["patient_accuracy"].value == 1.0
    assert "with images of several classes, and excluded: 1 patient" in evaluation.notes


@pytest.mark.parametrize(
    ("name", "words"),
    [("patient_auroc", "AUROC, of patients"), ("patient_sensitivity.tumor", "Sensitivity, of patients, tumor")],
)
def test_the_report_names_metrics_of_patients(name, words):
    assert metric_title(name) == words
