"""Criteria of an evaluation: bounds that the interval of a metric must keep, and the verdict that follows from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from medvit.config import Config
from medvit.errors import ConfigError
from medvit.evaluation import Evaluation
from medvit.metrics import is_lower_better, metric_of, metric_title
from medvit.statistics import Estimate

VerdictName = Literal["passed", "failed", "not judged"]


class Criterion(Config):
    """Bound that the interval of a metric must keep."""

    metric: str
    """Metric as in metrics.json, such as `auroc`, `dice.liver` or `mae`."""
    bound: float
    """Value that the whole 95 % interval must reach: its lower end must be at least this value. For a metric whose
    lower values are better, such as an error, the upper end must be at most this value.
    """
    each: str = ""
    """Table of the report whose lines must all keep the bound, such as `quality` for the table "By quality". Empty:
    only the result over all images.
    """


@dataclass(frozen=True)
class CriterionResult:
    """Result of a criterion for one group of images; the group is empty for all images."""

    criterion: Criterion
    group: str
    estimate: Estimate | None
    """Metric with its interval; None if the evaluation does not have it."""

    @property
    def is_met(self) -> bool:
        """Return whether the interval keeps the bound; an undefined metric does not."""
        if self.estimate is None or math.isnan(self.estimate.value):
            return False
        if is_lower_better(self.criterion.metric):
            return self.estimate.high <= self.criterion.bound
        return self.estimate.low >= self.criterion.bound

    @property
    def text(self) -> str:
        """Return the criterion, the metric and the result in words."""
        wanted = "upper end at most" if is_lower_better(self.criterion.metric) else "lower end at least"
        found = "missing in this evaluation" if self.estimate is None else str(self.estimate)
        group = f", {self.group}" if self.group else ""
        state = "met" if self.is_met else "not met"
        return f"{metric_title(self.criterion.metric)}{group}: {found}, {wanted} {self.criterion.bound:g}: {state}"


@dataclass(frozen=True)
class CriteriaVerdict:
    """Verdict on a model: passed if all criteria are met, failed if not, and not judged without criteria."""

    outcomes: tuple[CriterionResult, ...] = ()

    @property
    def name(self) -> VerdictName:
        """Return the verdict in words."""
        if not self.outcomes:
            return "not judged"
        return "passed" if all(outcome.is_met for outcome in self.outcomes) else "failed"

    @property
    def unmet(self) -> list[str]:
        """Return a line for each criterion that is not met."""
        return [f"criterion {outcome.text}" for outcome in self.outcomes if not outcome.is_met]


def require_known(criteria: Sequence[Criterion]) -> None:
    """Check before an evaluation that criteria name metrics.

    Raises:
        ConfigError: If there is no metric of a name, or neither higher nor lower values of a metric are better.
    """
    for criterion in criteria:
        metric = metric_of(criterion.metric)
        if metric is not None and metric.higher_is_better is None:
            raise ConfigError(
                f"criteria: neither higher nor lower values of {criterion.metric} are better, so it cannot have a "
                "bound; give another metric"
            )
        if metric is None:
            raise ConfigError(
                f"criteria: there is no metric {criterion.metric}; give a name as in metrics.json, such as auroc, dice "
                "or mae.age"
            )


def judge_criteria(criteria: Sequence[Criterion], evaluation: Evaluation) -> CriteriaVerdict:
    """Return the verdict on an evaluation."""
    return CriteriaVerdict(tuple(outcome for one in criteria for outcome in _outcomes(one, evaluation)))


def _outcomes(criterion: Criterion, evaluation: Evaluation) -> Iterator[CriterionResult]:
    if not criterion.each:
        yield CriterionResult(criterion, "", evaluation.metrics.get(criterion.metric))
        return
    tables = [one for one in evaluation.breakdowns if _name(one.title) == _name(criterion.each)]
    lines = [line for table in tables for line in table.lines]
    for line in lines:
        yield CriterionResult(criterion, line.name, line.metrics.get(criterion.metric))
    if not lines:  # a criterion that cannot be checked is not met
        yield CriterionResult(criterion, f"no table by {criterion.each}", None)


def _name(title: str) -> str:
    return title.strip().lower().removeprefix("by ")
