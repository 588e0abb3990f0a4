"""Criteria bound the end of an interval that is worse; the verdict is failed if one is not met."""

from __future__ import annotations

import pytest

from medvit.errors import ConfigError
from medvit.evaluation import Breakdown, Evaluation, MetricRow
from medvit.evaluation.criteria import Criterion, judge_criteria, require_known
from medvit.patients import PatientCount
from medvit.statistics import UNDEFINED, Estimate


def evaluation() -> Evaluation:
    lines = (
        MetricRow("good", 10, PatientCount(10, 0), {"auroc": Estimate(0.95, 0.9, 1.0)}),
        MetricRow("poor", 5, PatientCount(5, 0), {"auroc": Estimate(0.7, 0.5, 0.9)}),
    )
    metrics = {"auroc": Estimate(0.9, 0.85, 0.95), "mae": Estimate(3.0, 2.0, 4.0), "kappa": UNDEFINED, "ece": UNDEFINED}
    return Evaluation("classification", ("a", "b"), (), metrics, {}, breakdowns=(Breakdown("By quality", "", lines),))


@pytest.mark.parametrize(
    ("metric", "bound", "verdict"),
    [
        ("auroc", 0.85, "passed"),  # the lower end, not the value, must reach the bound
        ("auroc", 0.86, "failed"),
        ("mae", 4.0, "passed"),  # of an error, the upper end
        ("mae", 3.9, "failed"),
        ("ece", 1.0, "failed"),  # undefined
        ("specificity", 0.0, "failed"),  # not measured
    ],
)
def test_the_worse_end_of_the_interval_decides(metric: str, bound: float, verdict: str) -> None:
    assert judge_criteria([Criterion(metric=metric, bound=bound)], evaluation()).name == verdict


def test_without_criteria_a_model_is_not_judged() -> None:
    verdict = judge_criteria([], evaluation())
    assert verdict.name == "not judged"
    assert verdict.unmet == []


def test_one_criterion_that_is_not_met_decides() -> None:
    verdict = judge_criteria([Criterion(metric="auroc", bound=0.8), Criterion(metric="mae", bound=1)], evaluation())
    assert verdict.name == "failed"
    assert verdict.unmet == [
        "criterion Mean absolute error: 3.000 [2.000, 4.000], upper end at most 1: not met"
    ]  # fmt: skip


def test_each_line_of_a_table_is_judged_and_a_missing_table_is_not_met() -> None:
    verdict = judge_criteria([Criterion(metric="auroc", bound=0.8, each="quality")], evaluation())
    assert [(outcome.group, outcome.is_met) for outcome in verdict.outcomes] == [("good", True), ("poor", False)]
    missing = judge_criteria([Criterion(metric="auroc", bound=0.0, each="scanner")], evaluation())
    assert missing.name == "failed"
    assert "no table by scanner" in missing.unmet[0]


def test_metrics_that_cannot_be_judged_are_refused_before_the_evaluation() -> None:
    with pytest.raises(ConfigError, match="there is no metric aurok"):
        require_known([Criterion(metric="aurok", bound=0.8)])
    with pytest.raises(ConfigError, match="neither higher nor lower values of volume_bias_ml are better"):
        require_known([Criterion(metric="volume_bias_ml", bound=0.8)])
    require_known([Criterion(metric="auroc.malignant", bound=0.8)])
