"""Pooled metrics equal scikit-learn's over the pixels of all images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from medvit.metrics import PixelCounts, PooledMetric, metrics

THEIRS = {
    "dice_pooled": f1_score,
    "sensitivity_pooled": recall_score,
    "specificity_pooled": lambda truth, found: recall_score(~truth, ~found),
}


def counts(truth: np.ndarray, found: np.ndarray) -> PixelCounts:
    return PixelCounts(overlap=(truth & found).sum(), true=truth.sum(), found=found.sum(), counted=truth.size)


@pytest.mark.parametrize("metric", metrics(PooledMetric), ids=lambda metric: metric.name)
def test_a_pooled_metric_is_that_of_scikit_learn(metric: PooledMetric) -> None:
    truth, found = np.random.default_rng(0).random((2, 500)) < [[0.3], [0.4]]
    assert metric.compute(counts(truth, found)) == pytest.approx(THEIRS[metric.name](truth, found), rel=1e-12)
    assert (metric.compute(counts(truth, truth)) > metric.compute(counts(truth, ~truth))) == metric.higher_is_better
    assert math.isnan(metric.compute(PixelCounts(0, 0, 0, 0)))
