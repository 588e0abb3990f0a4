"""Operating points of an evaluation: chosen on the validation split or read from a report, with their rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medvit.errors import ConfigError, DataError
from medvit.evaluation import Evaluation
from medvit.evaluation.aggregation import AggregationLevel
from medvit.evaluation.operating.cases import Cases, cases_of, positive_groups
from medvit.evaluation.operating.choice import choose_threshold
from medvit.evaluation.operating.decision import DecisionCurve, decision_curve
from medvit.evaluation.operating.prevalence import metrics_at
from medvit.evaluation.operating.rates import Rates, rates_of
from medvit.evaluation.operating_options import OperatingOptions
from medvit.inference.operating_points import OperatingPoint
from medvit.statistics import Estimate


@dataclass(frozen=True)
class EvaluatedPoint:
    """Operating point with its rates on the images it was chosen on, and on the evaluated images."""

    point: OperatingPoint
    chosen_on: Rates | None
    """Rates on the validation split; None if the point was read from a report."""
    rates: Rates


@dataclass(frozen=True)
class AtPrevalence:
    """Metrics of a condition at a prevalence, by resampling of patients."""

    positive: str
    prevalence: float
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Operating:
    """Operating points of an evaluation, in the order in which they were requested."""

    level: AggregationLevel
    points: tuple[EvaluatedPoint, ...]
    refused: tuple[str, ...] = ()
    """Reasons why requested points were not chosen."""
    notes: tuple[str, ...] = ()
    curves: tuple[DecisionCurve, ...] = ()
    """Decision curve of each condition."""
    at_prevalence: tuple[AtPrevalence, ...] = ()
    """Metrics at the requested prevalence; empty if none is requested."""


@dataclass(frozen=True)
class OperatingPlan:
    """How operating points are chosen and evaluated: options, order of the classes, resamples and seed."""

    options: OperatingOptions
    order: Sequence[str]
    resamples: int
    seed: int

    def chosen(self, validation: Evaluation, evaluated: Evaluation) -> Operating:
        """Choose operating points on the validation images, and evaluate them.

        A point that cannot be chosen is listed with the reason.

        Raises:
            ConfigError: If the options do not fit the classes of the model.
        """
        groups = self._groups(evaluated)
        points: list[EvaluatedPoint] = []
        refused: list[str] = []
        notes: list[str] = []
        for group in groups:
            cases = self._cases(validation, group)
            if not 0.0 < cases.prevalence < 1.0:
                refused.append(f"{' or '.join(group)}: the val split has no {_missing(cases)} cases")
                continue
            prevalence = self.options.prevalence or cases.prevalence
            if self.options.prevalence is None:
                notes.append(
                    f"operating.prevalence was not given: predictive values of {' or '.join(group)} are for a "
                    f"prevalence of {prevalence:.3g}, as in the val split"
                )
            for goal, wished in self.options.goals:
                try:
                    threshold = choose_threshold(cases, goal, wished, prevalence)
                except DataError as error:
                    refused.append(f"{' or '.join(group)}: {error}")
                    continue
                name = f"{goal} {wished:g}" + f" at prevalence {prevalence:.3g}" * (goal == "ppv")
                point = OperatingPoint(name, group, threshold, self.options.level, prevalence)
                points.append(EvaluatedPoint(point, self._rates(cases, point), self._evaluated(evaluated, point)))
        found = Operating(self.options.level, tuple(points), tuple(refused), tuple(notes))
        return self.with_curves(found, evaluated)

    def given(self, points: Sequence[OperatingPoint], evaluated: Evaluation) -> Operating:
        """Evaluate operating points of an earlier report.

        Raises:
            ConfigError: If the report has no points, or `operating.level` differs from theirs.
        """
        levels = {point.level for point in points}
        if levels != {self.options.level}:
            kind = f"points of the level {', '.join(sorted(levels))}" if levels else "no points"
            raise ConfigError(
                f"{self.options.report} has {kind}; operating.level is {self.options.level}: give the same level"
            )
        found = [EvaluatedPoint(point, None, self._evaluated(evaluated, point)) for point in points]
        note = "the operating points were chosen in an earlier evaluation, not on images of this dataset"
        return self.with_curves(Operating(self.options.level, tuple(found), (), (note,)), evaluated)

    def with_curves(self, operating: Operating, evaluated: Evaluation) -> Operating:
        """Add decision curves and, if a prevalence is requested, metrics at this prevalence.

        Decision curves are at the requested prevalence, else at that of the points, else at that of the evaluated
        images.
        """
        prevalences = {one.point.classes: one.point.prevalence for one in operating.points}
        groups = list(prevalences) or self._groups(evaluated)
        how = {"resamples": self.resamples, "seed": self.seed}
        curves, at_prevalence = [], []
        for group in groups:
            cases, positive = self._cases(evaluated, group), " or ".join(group)
            if not len(cases) or not 0.0 < cases.prevalence < 1.0:
                continue
            prevalence = self.options.prevalence or prevalences.get(group, cases.prevalence)
            curves.append(decision_curve(cases, positive, prevalence, **how))
            if self.options.prevalence is not None:
                at_prevalence.append(AtPrevalence(positive, prevalence, metrics_at(cases, prevalence, **how)))
        return replace(operating, curves=tuple(curves), at_prevalence=tuple(at_prevalence))

    def _groups(self, evaluated: Evaluation) -> list[tuple[str, ...]]:
        groups = positive_groups(evaluated, self.options.positive)
        if self.options.prevalence is not None and len(groups) > 1:
            raise ConfigError(
                f"operating.prevalence is for one condition, and there are {len(groups)}; name the positive classes "
                "of one in operating.positive"
            )
        return groups

    def _evaluated(self, evaluated: Evaluation, point: OperatingPoint) -> Rates:
        return self._rates(self._cases(evaluated, point.classes), point)

    def _rates(self, cases: Cases, point: OperatingPoint) -> Rates:
        prevalence = self.options.prevalence or point.prevalence
        return rates_of(cases, point.threshold, prevalence, resamples=self.resamples, seed=self.seed)

    def _cases(self, evaluation: Evaluation, positive: Sequence[str]) -> Cases:
        return cases_of(evaluation, positive, self.options.level, self.order)


def _missing(cases: Cases) -> str:
    return "positive" if cases.prevalence == 0.0 else "negative"
