"""Results of a learning curve: scores by number of labels, and effects relative to training from scratch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from medvit.curves.effects import Effect, holm, mean_over_draws, paired_effect
from medvit.curves.runs import BASELINES, Cell, CurveRun, best_way, tuned_amount
from medvit.curves.scores import ImageScores, value

MAX_P = 0.05
"""Corrected p-value below which a difference counts."""


@dataclass(frozen=True)
class CurvePoint:
    """Scores of one arm (initial weights) and one fine-tuning method `way` for one amount of labels.

    `scores` has one score per draw of labels, and `mean` is their mean with its interval. `effect` is the paired
    difference from the best method from scratch; it is None for that method itself. `is_chosen` states whether `way`
    had the best score of all methods of the arm on training patients.
    """

    amount: float
    num_patients: int
    arm: str
    way: str
    settings: str
    scores: tuple[float, ...]
    mean: Effect
    is_chosen: bool
    effect: Effect | None = None
    corrected_p: float | None = None
    """P-value of the effect after Holm's correction for all effects with `is_chosen`, except those of baselines."""
    is_gain: bool = False
    """Whether the effect is positive with `corrected_p` below .05, and the mean score is not below any baseline."""

    def tree(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return asdict(self)


def lines_of(
    scores: Mapping[CurveRun, ImageScores],
    chosen: Mapping[Cell, tuple[Any, float]],
    num_patients: Mapping[float, int],
    *,
    ways: Sequence[str],
    resamples: int,
) -> list[CurvePoint]:
    """Return one `CurvePoint` for each amount of labels, arm (initial weights) and fine-tuning method.

    Its effect is relative to the best method from scratch. `scores` are those of each run, and `chosen` contains the
    settings and scores from tuning.
    """
    by_place: dict[Cell, list[CurveRun]] = defaultdict(list)
    for run in sorted(scores, key=lambda run: run.draw):
        by_place[run.amount, run.arm, run.way].append(run)
    amounts = sorted({amount for amount, _, _ in by_place})
    best = {
        (amount, arm): best_way(chosen, tuned_amount(amount, amounts), arm, ways)
        for amount, arm, way in by_place
        if arm not in BASELINES
    }
    found = []
    for (amount, arm, way), members in by_place.items():
        each = [scores[run] for run in members]
        is_chosen = best.get((amount, arm), way) == way
        base = {run.draw: run for run in by_place.get((amount, "scratch", best.get((amount, "scratch"), "")), ())}
        pairs = [(run, base[run.draw]) for run in members if run.draw in base]  # a run of either may have failed
        effect = None
        if pairs and (arm != "scratch" or not is_chosen):
            ones, others = zip(*pairs, strict=True)
            effect = paired_effect([scores[run] for run in ones], [scores[run] for run in others], resamples=resamples)
        values = tuple(value(one) for one in each)
        mean = mean_over_draws(each, resamples=resamples)
        settings = str(members[0].settings)
        found.append(CurvePoint(amount, num_patients[amount], arm, way, settings, values, mean, is_chosen, effect))
    return _judged(found)


def _judged(lines: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Return the points with `corrected_p` and `is_gain` set, ordered by amount.

    `corrected_p` remains None for baselines, for methods that were not chosen in tuning, and without an effect.
    """
    tested = [line for line in lines if _is_tested(line)]
    corrected = dict(zip(map(id, tested), holm([line.effect.p for line in tested if line.effect]), strict=True))
    floor: dict[float, float] = {}
    for line in filter(_is_baseline, lines):
        floor[line.amount] = max(line.mean.mean, floor.get(line.amount, float("-inf")))
    judged = []
    for line in lines:
        p = corrected.get(id(line))
        is_gain = (
            p is not None
            and line.effect is not None
            and p < MAX_P
            and line.effect.mean > 0
            and line.mean.mean >= floor.get(line.amount, float("-inf"))
        )
        judged.append(replace(line, corrected_p=p, is_gain=is_gain))
    return sorted(judged, key=lambda line: line.amount)


def _is_tested(line: CurvePoint) -> bool:
    return line.is_chosen and line.effect is not None and not _is_baseline(line)


def _is_baseline(line: CurvePoint) -> bool:
    return line.arm in BASELINES
