"""Training runs of a learning curve, and the choice of their settings."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from medvit.curves.options import CurveOptions

PIXELS, EQUAL_STEPS = "pixels", "scratch-equal-steps"
"""Baselines that are listed with the arms.

The first is a logistic regression on pixels. The second is training from scratch for as many steps as pretraining and
fine-tuning take together.
"""
BASELINES = (PIXELS, EQUAL_STEPS)
REGRESSION = "regression"
FIRST_TUNING_DRAW = 1000
"""Number of the first draw that is used for tuning; draws for the test have smaller numbers."""


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    For a network, they are learning rate `lr` and number of steps. For the regression on pixels, they are the inverse
    regularization strength `strength`.
    """

    lr: float = 0.0
    steps: int = 0
    strength: float = 0.0

    def __str__(self) -> str:
        return f"c{self.strength:g}" if self.strength else f"lr{self.lr:g}-s{self.steps}"


@dataclass(frozen=True)
class CurveRun:
    """One training run on a draw of labels, and the evaluation of the trained model.

    If `purpose` is "tuning", the model is evaluated on training patients outside of the draw; if it is "test", on test
    patients. `arm` names the initial weights, `way` the fine-tuning method, and `amount` the amount of labels.
    """

    purpose: Literal["tuning", "test"]
    arm: str
    way: str
    amount: float
    draw: int
    settings: Settings

    @property
    def name(self) -> str:
        """Name of the file with the scores of the run, without extension."""
        return f"{self.purpose}-{self.arm}-{self.way}-n{self.amount:g}-d{self.draw}-{self.settings}"

    @property
    def is_trained(self) -> bool:
        """Whether the run trains a network, not the regression on pixels."""
        return self.arm != PIXELS


Cell = tuple[float, str, str]
"""Amount of labels, arm (initial weights), and way (fine-tuning method)."""


def tuning_runs(options: CurveOptions, arms: Sequence[str], *, with_pixels: bool) -> Iterator[CurveRun]:
    """Yield the runs that tune the settings: one for each amount of labels, tuning draw, arm, method, and settings.

    An arm is a choice of initial weights, and a draw is a random set of labeled patients. The amount 1 is skipped,
    because no training patient is left to evaluate on. `with_pixels` adds the runs of the regression on pixels.
    """
    grid = [Settings(lr, steps) for lr, steps in itertools.product(options.rates, options.lengths)]
    strengths = [Settings(strength=strength) for strength in options.strengths]
    draws = range(FIRST_TUNING_DRAW, FIRST_TUNING_DRAW + options.tuning_draws)
    for amount, draw in itertools.product(options.labeled, draws):
        if amount == 1:
            continue  # no training patient is left outside: the settings of the next smaller amount are taken
        for arm, way in itertools.product(arms, options.ways):
            yield from (CurveRun("tuning", arm, way, amount, draw, settings) for settings in grid)
        if with_pixels:
            yield from (CurveRun("tuning", PIXELS, REGRESSION, amount, draw, settings) for settings in strengths)


def chosen_settings(scores: Mapping[CurveRun, float]) -> dict[Cell, tuple[Settings, float]]:
    """Return the best settings for each amount of labels, arm (initial weights) and method, and their score.

    The score of settings is their mean score over the tuning draws.
    """
    found: dict[Cell, dict[Settings, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, score in scores.items():
        found[run.amount, run.arm, run.way][run.settings].append(score)
    chosen = {}
    for place, by_settings in found.items():
        means = {settings: float(np.mean(each)) for settings, each in by_settings.items()}
        best = max(means, key=lambda settings: -np.inf if np.isnan(means[settings]) else means[settings])
        chosen[place] = (best, means[best])
    return chosen


def test_runs(
    options: CurveOptions,
    arms: Sequence[str],
    chosen: Mapping[Cell, tuple[Settings, float]],
    *,
    pretraining_steps: int,
) -> Iterator[CurveRun]:
    """Yield the runs for the test: one per amount of labels, draw, arm and method, with the settings from tuning."""
    for amount, draw in itertools.product(options.labeled, range(options.draws)):
        tuned = tuned_amount(amount, options.labeled)
        for arm, way in itertools.product(arms, options.ways):
            if (tuned, arm, way) in chosen:  # all its runs of tuning may have failed
                yield CurveRun("test", arm, way, amount, draw, chosen[tuned, arm, way][0])
        if (tuned, PIXELS, REGRESSION) in chosen:
            yield CurveRun("test", PIXELS, REGRESSION, amount, draw, chosen[tuned, PIXELS, REGRESSION][0])
        if options.equal_steps and pretraining_steps and (tuned, "scratch", "full") in chosen:
            settings = chosen[tuned, "scratch", "full"][0]
            longer = Settings(settings.lr, settings.steps + pretraining_steps)
            yield CurveRun("test", EQUAL_STEPS, "full", amount, draw, longer)


def tuned_amount(amount: float, amounts: Iterable[float]) -> float:
    """Return the amount of labels whose tuned settings apply to `amount`.

    This is `amount` itself. The amount 1 (all patients) is not tuned; for it, the largest other amount is returned.
    """
    return amount if amount != 1 else max(each for each in amounts if each != 1)


def best_way(chosen: Mapping[Cell, tuple[Settings, float]], amount: float, arm: str, ways: Sequence[str]) -> str:
    """Return the fine-tuning method of an arm with the best score in tuning, for an amount of labels."""
    known = [way for way in ways if (amount, arm, way) in chosen]
    return max(known, key=lambda way: chosen[amount, arm, way][1])


def as_tree(chosen: Mapping[Cell, tuple[Settings, float]]) -> list[dict[str, Any]]:
    """Return the chosen settings and their scores as plain values, for JSON."""
    return [
        {"amount": amount, "arm": arm, "way": way, **asdict(settings), "score": score}
        for (amount, arm, way), (settings, score) in chosen.items()
    ]
