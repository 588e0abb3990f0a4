"""Metrics of numbers equal scikit-learn's."""

import math
import statistics

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error as their_mae
from sklearn.metrics import r2_score, root_mean_squared_error

from medvit.metrics import ValueMetric, metrics
from medvit.metrics.values.r2 import determination

THEIRS = {"mae": their_mae, "rmse": root_mean_squared_error, "r2": r2_score}


def of_definition(truth, predicted):
    """Return the mean difference and the limits of agreement of Bland and Altman, from their definition."""
    errors = [b - a for a, b in zip(truth, predicted, strict=True)]
    spread = statistics.stdev(errors)
    mean = statistics.fmean(errors)
    return {"mean_difference": mean, "agreement_lower": mean - 1.96 * spread, "agreement_upper": mean + 1.96 * spread}


@pytest.mark.parametrize("metric", metrics(ValueMetric), ids=lambda metric: metric.name)
def test_a_metric_of_numbers_is_that_of_scikit_learn(metric: ValueMetric) -> None:
    truth, predicted = np.random.default_rng(0).normal(60.0, 20.0, (2, 50))
    by_definition = of_definition(truth, predicted)
    expected = by_definition[metric.name] if metric.name in by_definition else THEIRS[metric.name](truth, predicted)
    assert metric.compute(truth, predicted) == pytest.approx(expected, rel=1e-12)
    if metric.higher_is_better is not None:
        assert (metric.compute(truth, truth) > metric.compute(truth, predicted)) == metric.higher_is_better
    assert math.isnan(metric.compute(np.zeros(0), np.zeros(0)))


@pytest.mark.parametrize("metric", [one for one in metrics(ValueMetric) if one.of_each], ids=lambda metric: metric.name)
def test_a_mean_of_images_is_the_mean_of_their_values(metric: ValueMetric) -> None:
    truth, predicted = np.random.default_rng(1).normal(0.0, 1.0, (2, 20))
    assert metric.of_each(truth, predicted).mean() == pytest.approx(metric.compute(truth, predicted))


def test_r2_of_equal_truths_is_undefined() -> None:
    assert math.isnan(determination(np.full(3, 0.1), np.array([0.1, 0.2, 0.3])))
