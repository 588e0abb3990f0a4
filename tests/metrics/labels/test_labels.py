"""Metrics over several labels equal scikit-learn's, and skip labels whose truth is unknown."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from medvit.evaluation.tasks.multilabel import multilabel_metrics
from medvit.metrics import LabelMetric, metrics

METRICS = {one.name: one.compute for one in metrics(LabelMetric)}
KINDS = ("auroc", "average_precision", "f1_labels")


def theirs(kind: str, truth: np.ndarray, probabilities: np.ndarray, average: str) -> float:
    if kind == "f1_labels":
        return float(f1_score(truth, probabilities > 0.5, average=average))
    score = roc_auc_score if kind == "auroc" else average_precision_score
    return float(score(truth, probabilities, average=average))


def drawn() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    truth = (generator.random((60, 3)) < (0.2, 0.5, 0.4)).astype(np.float64)
    return truth, np.round(np.clip(0.3 * truth + generator.random((60, 3)) * 0.7, 0, 1), 2)  # with ties


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("kind", KINDS)
def test_metrics_of_labels_are_those_of_scikit_learn(kind: str, average: str) -> None:
    truth, probabilities = drawn()
    expected = theirs(kind, truth, probabilities, average)
    assert METRICS[f"{kind}_{average}"](truth, probabilities) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_labels_do_not_count(kind: str) -> None:
    truth, probabilities = drawn()
    truth[:25, 1] = np.nan
    known = [np.flatnonzero(~np.isnan(one)) for one in truth.T]
    each = [
        theirs(kind, truth[images, label].astype(int), probabilities[images, label], "binary" if "f1" in kind else None)
        for label, images in enumerate(known)
    ]
    assert METRICS[f"{kind}_macro"](truth, probabilities) == pytest.approx(np.mean(each))
    pooled = ~np.isnan(truth)
    every = theirs(kind, truth[pooled].astype(int), probabilities[pooled], "binary" if "f1" in kind else None)
    assert METRICS[f"{kind}_micro"](truth, probabilities) == pytest.approx(every)
    assert f"{kind}.b" in multilabel_metrics(truth, probabilities, ("a", "b", "c")) or kind == "f1_labels"


def test_a_label_without_a_case_leaves_the_means_undefined() -> None:
    truth, probabilities = np.zeros((4, 2)), np.full((4, 2), 0.1)
    truth[:2, 0], probabilities[:2, 0] = 1.0, 0.9
    assert all(math.isnan(METRICS[f"{kind}_macro"](truth, probabilities)) for kind in KINDS)
    assert METRICS["f1_labels_micro"](truth, probabilities) == 1.0
