"""Metrics of numbers equal scikit-learn's."""

import math

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error as their_mae
from sklearn.metrics import r2_score, root_mean_squared_error

from medvit.metrics import ValueMetric, metrics
from medvit.metrics.values.r2 import determination

THEIRS = {"mae": their_mae, "rmse": root_mean_squared_error, "r2": r2_score}


@pytest.mark.parametrize("metric", metrics(ValueMetric), ids=lambda metric: metric.name)
def test_a_metric_of_numbers_is_that_of_scikit_learn(metric: ValueMetric) -> None:
    truth, predicted = np.random.default_rng(0).normal(60.0, 20.0, (2, 50))
    assert metric.compute(truth, predicted) == pytest.approx(THEIRS[metric.name](truth, predicted), rel=1e-12)
    assert (metric.compute(truth, truth) > metric.compute(truth, predicted)) == metric.higher_is_better
    assert math.isnan(metric.compute(np.zeros(0), np.zeros(0)))


def test_r2_of_equal_truths_is_undefined() -> None:
    assert math.isnan(determination(np.full(3, 0.1), np.array([0.1, 0.2, 0.3])))
