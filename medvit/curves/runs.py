"""Training runs of a learning curve, and the choice of their settings."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from medvit.curves.amounts import ALL, LabelAmount, tuned_amount
from medvit.curves.options import CurveOptions
from medvit.errors import DataError

PIXELS, DYNUNET, EQUAL_STEPS = "pixels", "dynunet", "scratch-equal-steps"
"""Baselines that are listed with the arms.

The first is a logistic regression on pixels, for classification. The second is DynUNet, for segmentation. The
third is training from scratch for as many steps as pretraining and fine-tuning take together.
"""
SIMPLE = (PIXELS, DYNUNET)
"""Baselines without a vision transformer. An effect counts as a gain only if there are scores of one of them."""
BASELINES = (*SIMPLE, EQUAL_STEPS)
WHOLE_NETWORK, REGRESSION = "network", "regression"
"""Names in place of a fine-tuning method (`way`) for two baselines: DynUNet, and the regression on pixels."""
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

    def edges(self, options: CurveOptions) -> list[str]:
        """Return which of the settings are at an edge of their grid, where a better value may be outside."""
        grids = [
            ("lr", self.lr, options.rates),
            ("steps", self.steps, options.lengths),
            ("C", self.strength, options.strengths),
        ]
        return [
            f"{'lowest' if value == min(grid) else 'highest'} {name}"
            for name, value, grid in grids
            if value and len(grid) > 1 and value in (min(grid), max(grid))
        ]


@dataclass(frozen=True)
class CurveRun:
    """One training run on a draw of labels, and the evaluation of the trained model.

    If `purpose` is "tuning", the model is evaluated on training patients outside of the draw; if it is "test", on test
    patients. `arm` names the initial weights, `way` the fine-tuning method, and `amount` the amount of labels.
    """

    purpose: Literal["tuning", "test"]
    arm: str
    way: str
    amount: LabelAmount
    draw: int
    settings: Settings

    @property
    def name(self) -> str:
        """Name of the file with the scores of the run, without extension."""
        return f"{self.purpose}-{self.arm}-{self.way}-n{self.amount}-d{self.draw}-{self.settings}"

    @property
    def is_trained(self) -> bool:
        """Whether the run trains a network, not the regression on pixels."""
        return self.arm != PIXELS


Cell = tuple[LabelAmount, str, str]
"""Amount of labels, arm (initial weights), and way (fine-tuning method)."""
Choices = Mapping[Cell, tuple[Settings, float]]
"""The chosen settings of each cell, and their score in tuning."""


def tuning_draws(options: CurveOptions) -> range:
    """Return the numbers of the draws that are used for tuning."""
    return range(FIRST_TUNING_DRAW, FIRST_TUNING_DRAW + options.tuning_draws)


def tuning_runs(
    options: CurveOptions, arms: Sequence[str], amounts: Sequence[LabelAmount], *, is_classification: bool
) -> Iterator[CurveRun]:
    """Yield the runs that tune the settings: one for each amount of labels, tuning draw, arm, method, and settings.

    An arm is a choice of initial weights, and a draw is a random set of labeled patients. The amount `all` is skipped,
    because no training patient is left to evaluate on. The simple baseline is that of the task.
    """
    grid = [Settings(lr, steps) for lr, steps in itertools.product(options.rates, options.lengths)]
    strengths = [Settings(strength=strength) for strength in options.strengths]
    for amount, draw in itertools.product(amounts, tuning_draws(options)):
        if amount == ALL:
            continue
        for arm, way in itertools.product(arms, options.ways):
            yield from (CurveRun("tuning", arm, way, amount, draw, settings) for settings in grid)
        if is_classification:
            yield from (CurveRun("tuning", PIXELS, REGRESSION, amount, draw, settings) for settings in strengths)
        else:
            yield from (CurveRun("tuning", DYNUNET, WHOLE_NETWORK, amount, draw, settings) for settings in grid)


def chosen_settings(scores: Mapping[CurveRun, float], num_draws: int) -> dict[Cell, tuple[Settings, float]]:
    """Return the best settings for each amount of labels, arm (initial weights) and method, and their score.

    The score of settings is their mean score over the tuning draws. Settings without a score for each of the
    `num_draws` draws are not chosen; a method is omitted if this applies to all of its settings.

    Raises:
        DataError: If a score is undefined, as for images without a foreground.
    """
    found: dict[Cell, dict[Settings, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, score in scores.items():
        if np.isnan(score):
            raise DataError(
                f"{run.name}: the score is undefined, as where no image to choose settings by has a foreground; raise "
                "tuning_images, or give smaller amounts in labeled"
            )
        found[run.amount, run.arm, run.way][run.settings].append(score)
    chosen = {}
    for place, by_settings in found.items():
        means = {settings: float(np.mean(each)) for settings, each in by_settings.items() if len(each) == num_draws}
        if means:
            best = max(means, key=means.__getitem__)
            chosen[place] = (best, means[best])
    return chosen


def test_runs(
    options: CurveOptions,
    arms: Sequence[str],
    amounts: Sequence[LabelAmount],
    chosen: Choices,
    *,
    pretraining_steps: int,
) -> Iterator[CurveRun]:
    """Yield the runs for the test: one per amount of labels, draw, arm and method, with the settings from tuning."""
    for amount, draw in itertools.product(amounts, range(options.draws)):
        tuned = tuned_amount(amount, amounts)
        for arm, way in [*itertools.product(arms, options.ways), (PIXELS, REGRESSION), (DYNUNET, WHOLE_NETWORK)]:
            if (tuned, arm, way) in chosen:  # all its settings may have diverged in tuning
                yield CurveRun("test", arm, way, amount, draw, chosen[tuned, arm, way][0])
        if options.equal_steps and pretraining_steps:
            for way in options.ways:
                if (tuned, "scratch", way) in chosen:
                    longer = _equal_steps(chosen, tuned, arms, way, pretraining_steps)
                    yield CurveRun("test", EQUAL_STEPS, way, amount, draw, longer)


def best_way(chosen: Choices, amount: LabelAmount, arm: str, ways: Sequence[str]) -> str:
    """Return the fine-tuning method of an arm with the best score in tuning, for an amount of labels.

    Raises:
        DataError: If all settings of all methods diverged in tuning.
    """
    known = [way for way in ways if (amount, arm, way) in chosen]
    if not known:
        raise DataError(f"all settings of the arm {arm} diverged in tuning, labeled={amount}; give lower rates")
    return max(known, key=lambda way: chosen[amount, arm, way][1])


def chosen_text(chosen: Choices) -> str:
    """Return the chosen settings and their scores as JSON."""
    lines = [
        {"amount": amount, "arm": arm, "way": way, **asdict(settings), "score": score}
        for (amount, arm, way), (settings, score) in chosen.items()
    ]
    return json.dumps(lines, indent=1) + "\n"


def read_chosen(text: str) -> dict[Cell, tuple[Settings, float]]:
    """Return chosen settings from JSON (`chosen_text`)."""
    return {
        (line["amount"], line["arm"], line["way"]): (
            Settings(line["lr"], line["steps"], line["strength"]),
            line["score"],
        )
        for line in json.loads(text)
    }


def _equal_steps(
    chosen: Choices, amount: LabelAmount, arms: Sequence[str], way: str, pretraining_steps: int
) -> Settings:
    """Return settings of a method from scratch, with the steps of pretraining plus those of the longest fine-tuning."""
    lengths = [chosen[amount, arm, way][0].steps for arm in arms if (amount, arm, way) in chosen]
    return Settings(chosen[amount, "scratch", way][0].lr, max(lengths) + pretraining_steps)
