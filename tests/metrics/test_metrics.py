"""Every metric declares what reports, tables and comparisons need."""

from __future__ import annotations

import importlib
import math
import pkgutil

import numpy as np
import pytest

from medvit import metrics as room
from medvit.errors import ConfigError
from medvit.metrics import Classified, ClassMetric, MaskMetric, MaskPair, Metric, is_of_positive, metric_title, metrics
from medvit.metrics.volumes.volume_bias import volume_bias

GRADES = ("0", "1", "2")


def test_a_metric_is_named_as_its_file() -> None:
    rooms = [importlib.import_module(name) for name in room.ROOMS]
    paths = [f"{of.__name__}.{one.name}" for of in rooms for one in pkgutil.iter_modules(of.__path__)]
    modules = map(importlib.import_module, paths)
    named = {module.__name__.rpartition(".")[2]: module.METRIC.name for module in modules if hasattr(module, "METRIC")}
    assert len(named) == len(metrics(Metric)) > 14
    assert list(named) == list(named.values())


@pytest.mark.parametrize("metric", metrics(Metric), ids=lambda metric: metric.name)
def test_a_metric_has_a_title_and_one_or_more_sentences_on_its_meaning(metric: Metric) -> None:
    assert metric.title
    assert metric.meaning.endswith(".")
    assert "\n" not in metric.meaning


@pytest.mark.parametrize("metric", metrics(ClassMetric), ids=lambda metric: metric.name)
def test_certainty_of_the_truth_is_better_than_of_another_class(metric: ClassMetric) -> None:
    truth = np.array([0, 1, 2, 0, 1, 2, 1])
    right, wrong = (Classified(truth, np.eye(3)[chosen], GRADES) for chosen in (truth, (truth + 1) % 3))
    for compute in (metric.of_all if metric.applies(GRADES) else None, metric.of_each):
        if compute is not None and metric.higher_is_better is not None:
            assert np.all((compute(right) > compute(wrong)) == metric.higher_is_better)


@pytest.mark.parametrize("metric", metrics(MaskMetric), ids=lambda metric: metric.name)
def test_the_true_mask_is_better_than_one_beside_it(metric: MaskMetric) -> None:
    true = np.zeros((9, 9), bool)
    true[2:5, 2:5] = True
    same, beside = (MaskPair(true, np.roll(true, shift, 0), (1.0, 1.0), 1.0) for shift in (0, 3))
    assert (metric.compute(same) > metric.compute(beside)) == metric.higher_is_better


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("auroc", "AUROC"),
        ("dice.liver", "Dice, liver"),
        ("hd95_mm.liver", "HD95, mm, liver"),
        ("hd95_px", "HD95, pixels"),
        ("volume_bias_ml.liver", "Found - true volume, mL, liver"),
        ("patient_sensitivity", "Sensitivity, of patients (positive: sick)"),
        ("sensitivity.sick", "Sensitivity, sick"),
        ("of_an_earlier_version.sick", "of_an_earlier_version, sick"),
    ],
)
def test_a_key_is_told_in_words(key: str, title: str) -> None:
    assert metric_title(key, "sick") == title


def test_some_metrics_are_of_the_positive_one_of_two_classes() -> None:
    truth, probabilities = np.array([0, 0, 1, 1, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3], [0, 1]])
    either = [Classified(truth, probabilities, ("a", "b"), positive) for positive in (0, 1)]
    for metric in metrics(ClassMetric):
        if metric.of_all is not None and metric.applies(("a", "b")):
            of_each = [metric.of_all(images) for images in either]
            assert (of_each[0] != pytest.approx(of_each[1])) == is_of_positive(metric.key()), metric.name


@pytest.mark.parametrize("name", ["truth", "patient_dice", "Dice", "a.b", "volume_ml", ""])
def test_a_name_that_would_be_taken_for_another_column_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a metric is named"):
        Metric(name=name, title="T", meaning="M.", higher_is_better=True)


def test_volume_bias_is_found_minus_true() -> None:
    assert volume_bias(np.array([1.0, 2.0]), np.array([2.0, 5.0])) == 2.0
    assert math.isnan(volume_bias(np.zeros(0), np.zeros(0)))
