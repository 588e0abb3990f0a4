"""Results of a learning curve: scores by number of labels, and effects relative to training from scratch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from medvit.curves.amounts import LabelAmount, tuned_amount
from medvit.curves.effects import Effect, Resampled, mean_over_draws, paired_effect, resample_patients
from medvit.curves.runs import BASELINES, EQUAL_STEPS, SIMPLE, Cell, Choices, CurveRun, Settings, best_way
from medvit.curves.scores import ImageScores
from medvit.statistics.multiplicity import holm

MAX_P = 0.05
"""Corrected p-value below which a positive effect can be a gain."""


@dataclass(frozen=True)
class CurvePoint:
    """Scores of one arm (initial weights) and one fine-tuning method `way` for one amount of labels.

    `scores` has one score for each of `draws`, and `mean` is their mean with its interval. `effect` is the paired
    difference from the best method of the arm `scratch`; it is None for that method itself. `is_chosen` states whether
    `way` had the best score of all methods of the arm on training patients.
    """

    amount: LabelAmount
    num_patients: int
    arm: str
    way: str
    settings: str
    edges: tuple[str, ...]
    """Settings at an edge of their grid, where a better value may be outside."""
    draws: tuple[int, ...]
    scores: tuple[float, ...]
    mean: Effect
    is_chosen: bool
    effect: Effect | None = None
    obstacle: str = ""
    """Reason why the effect is not a gain, however small its p-value is; empty if there is none."""
    corrected_p: float | None = None
    """P-value of the effect after Holm's correction for all effects that are tested."""
    is_gain: bool = False
    """Whether the effect is positive with `corrected_p` below .05, and there is no obstacle."""

    def tree(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> CurvePoint:
        """Return a point from plain values (`tree`)."""
        effects = {key: tree[key] and Effect(**tree[key]) for key in ("mean", "effect")}
        lists = {key: tuple(tree[key]) for key in ("edges", "draws", "scores")}
        return cls(**{**tree, **effects, **lists})

    @property
    def is_tested(self) -> bool:
        """Whether the effect is tested, which is the case for the chosen method of each arm except baselines."""
        return self.is_chosen and self.effect is not None and self.arm not in BASELINES


@dataclass(frozen=True)
class Design:
    """Design of a curve: the facts that are needed to compute effects and intervals from scores.

    `num_patients` maps each amount of labels, in ascending order, to the number of patients. `num_weights` is the
    number of initial weights of each arm, over which the draws are distributed. `edges` returns which settings are at
    an edge of their grid.
    """

    num_patients: Mapping[LabelAmount, int]
    num_draws: int
    ways: Sequence[str]
    num_weights: Mapping[str, int]
    resamples: int
    edges: Callable[[Settings], Sequence[str]]

    def clusters(self, arm: str, draws: Sequence[int]) -> list[int]:
        """Return, for each draw of labels, the index of its initial weights; random weights have different indices."""
        number = self.num_weights.get(arm)
        return [draw if number is None else draw % number for draw in draws]


def lines_of(scores: Mapping[CurveRun, ImageScores], chosen: Choices, design: Design) -> list[CurvePoint]:
    """Return one `CurvePoint` for each amount of labels, arm (initial weights) and fine-tuning method.

    The effect of a point is relative to the best method of the arm `scratch`. `scores` maps each run to its scores, and
    `chosen` contains the settings from tuning with their scores.
    """
    resampled = resample_patients(scores, resamples=design.resamples)
    by_cell: dict[Cell, dict[int, CurveRun]] = defaultdict(dict)
    for run in sorted(scores, key=lambda run: run.draw):
        by_cell[run.amount, run.arm, run.way][run.draw] = run
    points = []
    for amount in design.num_patients:
        best = best_way(chosen, tuned_amount(amount, design.num_patients), "scratch", design.ways)
        base = by_cell.get((amount, "scratch", best), {})
        points += [
            _point(cell, members, base, chosen, resampled, design)
            for cell, members in by_cell.items()
            if cell[0] == amount
        ]
    return with_gains([replace(point, obstacle=_obstacle(point, points, design.num_draws)) for point in points])


def with_gains(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Return the points with `corrected_p` and `is_gain` set, corrected for all tested effects among them."""
    tested = [point for point in points if point.is_tested]
    corrected = dict(zip(map(id, tested), holm([point.effect.p for point in tested if point.effect]), strict=True))
    return [
        replace(point, corrected_p=p, is_gain=_is_better(point, p) and not point.obstacle)
        for point in points
        for p in [corrected.get(id(point))]
    ]


def is_better(point: CurvePoint) -> bool:
    """Return whether the effect of a point is positive with a corrected p-value below .05."""
    return _is_better(point, point.corrected_p)


def _is_better(point: CurvePoint, p: float | None) -> bool:
    return p is not None and point.effect is not None and p < MAX_P and point.effect.mean > 0


def _point(
    cell: Cell,
    members: Mapping[int, CurveRun],
    base: Mapping[int, CurveRun],
    chosen: Choices,
    resampled: Mapping[CurveRun, Resampled],
    design: Design,
) -> CurvePoint:
    amount, arm, way = cell
    is_base = base == members
    pairs = [] if is_base else [draw for draw in members if draw in base]
    effect = None
    if pairs:
        ones, others = ([resampled[runs[draw]] for draw in pairs] for runs in (members, base))
        effect = paired_effect(ones, others, design.clusters(arm, pairs))
    each = [resampled[run] for run in members.values()]
    settings = next(iter(members.values())).settings
    return CurvePoint(
        amount=amount,
        num_patients=design.num_patients[amount],
        arm=arm,
        way=way,
        settings=str(settings),
        edges=tuple(design.edges(settings)),
        draws=tuple(members),
        scores=tuple(run.value for run in each),
        mean=mean_over_draws(each, design.clusters(arm, tuple(members))),
        is_chosen=_is_chosen(cell, chosen, design),
        effect=effect,
    )


def _is_chosen(cell: Cell, chosen: Choices, design: Design) -> bool:
    amount, arm, way = cell
    if arm in SIMPLE:
        return True
    tuned = tuned_amount(amount, design.num_patients)
    return way == best_way(chosen, tuned, "scratch" if arm == EQUAL_STEPS else arm, design.ways)


def _obstacle(point: CurvePoint, points: Sequence[CurvePoint], num_draws: int) -> str:
    """Return why the effect of a point cannot be a gain: missing scores, no simple baseline, or a better baseline."""
    if not point.is_tested:
        return ""
    base = next(other for other in points if _is_base(other, point.amount))
    num_pairs = len(set(point.draws) & set(base.draws))
    if num_pairs < num_draws:
        return f"{num_pairs} of {num_draws} pairs"
    baselines = [other for other in points if other.amount == point.amount and other.arm in BASELINES]
    if not any(other.arm in SIMPLE and np.isfinite(other.mean.mean) for other in baselines):
        return "no simple baseline"
    below = [other for other in baselines if not _mean_difference(point, other) >= 0]
    return f"below {below[0].arm}" if below else ""


def _is_base(point: CurvePoint, amount: LabelAmount) -> bool:
    return point.amount == amount and point.arm == "scratch" and point.is_chosen


def _mean_difference(one: CurvePoint, other: CurvePoint) -> float:
    """Return the difference between the mean scores of two points over their common draws."""
    first, second = (dict(zip(point.draws, point.scores, strict=True)) for point in (one, other))
    common = first.keys() & second.keys()
    return float(np.mean([first[draw] - second[draw] for draw in common])) if common else float("nan")
