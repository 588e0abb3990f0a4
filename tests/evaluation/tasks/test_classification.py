"""Metrics of classification equal their definitions."""

import math

import numpy as np
import pytest
from sklearn import metrics

from medvit.evaluation.tasks.classification import classification_metrics, evaluate_classes
from medvit.records import Row
from medvit.statistics.auroc import score_interval


def certain(truth, num_classes):
    return np.eye(num_classes)[truth]


def test_a_perfect_model_has_the_best_of_every_metric():
    truth = np.array([0, 1, 2, 2, 1, 0])
    found = classification_metrics(truth, certain(truth, 3), ["0", "1", "2"])
    best = {"brier": 0.0, "ece": 0.0, "grade_error": 0.0, "brier_reliability": 0.0, "ece_by_chance": 0.0}
    best |= {"brier_resolution": pytest.approx(2 / 3), "brier_uncertainty": pytest.approx(3 * 1 / 3 * 2 / 3)}
    assert all(value == best.get(name, 1.0) for name, value in found.items())


def test_auroc_of_many_classes_is_the_mean_of_one_against_the_rest():
    generator = np.random.default_rng(1)
    truth, probabilities = generator.integers(0, 4, 60), generator.dirichlet(np.ones(4), 60)
    found = classification_metrics(truth, probabilities, list("abcd"))
    assert found["auroc"] == pytest.approx(np.mean([found[f"auroc.{name}"] for name in "abcd"]))


def test_a_class_without_a_case_leaves_its_metrics_undefined():
    found = classification_metrics(np.array([0, 0]), np.array([[0.6, 0.4], [0.7, 0.3]]), ["no", "yes"])
    assert math.isnan(found["auroc"])
    assert math.isnan(found["average_precision"])


def test_kappa_is_given_only_for_grades():
    truth, probabilities = np.array([0, 1, 2]), certain(np.array([0, 1, 1]), 3)
    assert "kappa_quadratic" in classification_metrics(truth, probabilities, ["0", "1", "2"])
    assert "kappa_quadratic" not in classification_metrics(truth, probabilities, ["a", "b", "c"])


@pytest.mark.parametrize("decimals", [1, 6])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_numbers_are_those_of_scikit_learn(num_classes, decimals):
    generator = np.random.default_rng(decimals)
    truth = generator.integers(0, num_classes, 80)
    probabilities = np.round(generator.dirichlet(np.ones(num_classes), 80), decimals)  # one decimal makes ties
    chosen = probabilities.argmax(axis=1)
    found = classification_metrics(truth, probabilities, [str(grade) for grade in range(num_classes)])
    positives = [1] if num_classes == 2 else range(num_classes)
    areas = [metrics.roc_auc_score(truth == index, probabilities[:, index]) for index in positives]
    precisions = [metrics.average_precision_score(truth == index, probabilities[:, index]) for index in positives]
    assert found["auroc"] == pytest.approx(np.mean(areas))
    assert found["average_precision"] == pytest.approx(np.mean(precisions))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, chosen))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(truth, chosen, average="macro"))
    if num_classes > 2:
        assert found["kappa_quadratic"] == pytest.approx(metrics.cohen_kappa_score(truth, chosen, weights="quadratic"))
        others = metrics.recall_score(truth != 3, chosen != 3)
        assert found["specificity.3"] == pytest.approx(others)


def estimates(truth, probabilities, classes):
    count = len(truth)
    rows = [Row(f"i{n}", f"p{n}", "", "", "", "image", "d", "test", (1, 8, 8), "uint8", "0") for n in range(count)]
    return evaluate_classes(rows, np.array(truth), probabilities, classes, resamples=200, seed=0).metrics


def test_a_class_that_a_resample_does_not_draw_leaves_the_interval_to_the_others():
    probabilities = np.tile([0.6, 0.4], (10, 1))
    probabilities[9] = [0.55, 0.45]
    found = estimates([0] * 8 + [1, 1], probabilities, ("no", "yes"))["average_precision"]
    assert 0.0 < found.low < found.value < found.high == 1.0


def test_a_perfect_model_of_seven_patients_is_not_certain():
    truth = np.array([0, 0, 0, 1, 1, 1, 1])
    found = estimates(truth, certain(truth, 2) * 0.8 + 0.1, ("no", "yes"))
    assert {str(one) for one in found.values() if one.value == 1.0 and one.method == "agreement"} == {
        "1.000 [no interval]"
    }
    assert str(found["accuracy"]) == "1.000 [0.646, 1.000]"
    assert found["auroc"].low == score_interval(1.0, 4, 3)[0]
    assert found["balanced_accuracy"].low == pytest.approx((found["sensitivity"].low + found["specificity"].low) / 2)


def test_the_mean_of_perfect_classes_has_the_mean_of_their_limits():
    truth = np.arange(30) % 3
    found = estimates(truth, certain(truth, 3) * 0.7 + 0.1, ("0", "1", "2"))
    assert found["auroc"].method == "mean of classes"
    assert found["auroc"].low == pytest.approx(np.mean([found[f"auroc.{name}"].low for name in "012"]))
    assert 0.5 < found["auroc"].low < 1.0


def test_the_positive_class_is_a_name_and_not_a_place_in_the_alphabet() -> None:
    generator = np.random.default_rng(0)
    truth, scores = generator.integers(0, 2, 60), generator.random(60)
    first = classification_metrics(truth, np.stack([scores, 1 - scores], axis=1), ["cancer", "normal"], 0)
    turned = classification_metrics(1 - truth, np.stack([1 - scores, scores], axis=1), ["normal", "cancer"], 1)
    assert first == pytest.approx(turned, abs=1e-12)
    other = classification_metrics(truth, np.stack([scores, 1 - scores], axis=1), ["cancer", "normal"], 1)
    assert (first["sensitivity"], first["specificity"]) == (other["specificity"], other["sensitivity"])
