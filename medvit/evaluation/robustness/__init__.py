"""Robustness: the error of a model on corrupted images, by corruption and severity, alone and relative to a reference.

`predictions` predicts each image as it is and under each condition, `scoring` computes metric and error of a task from
the predictions, `results` adds intervals over patients and relative errors, and `page` writes the report.

Errors are those of MedMNIST-C (Di Salvo et al., 2024). The error of a classification is 1 minus the balanced accuracy.
The balanced error of a corruption is the mean error over its severities, divided by that of the reference. The relative
balanced error is the rise of the mean error over that without corruption, divided by that of the reference. MedMNIST-C
uses AlexNet as the reference; here, the user gives a model.
"""

from __future__ import annotations

from dataclasses import dataclass

from medvit.statistics import Estimate


@dataclass(frozen=True)
class Condition:
    """A corruption and its severity; the empty name stands for images as they are."""

    corruption: str = ""
    severity: int = 0


CLEAN = Condition()


@dataclass(frozen=True)
class ConditionScores:
    """Metric and error of a model under one condition."""

    metric: Estimate
    error: Estimate


@dataclass(frozen=True)
class CorruptionScores:
    """Mean error of a model over the severities of a corruption, or over all corruptions."""

    mean_error: Estimate
    rise: Estimate
    """Mean error minus the error without corruption."""
    balanced: Estimate | None = None
    """Mean error divided by that of the reference; None without a reference."""
    relative: Estimate | None = None
    """Rise divided by that of the reference; undefined if the reference does not become worse."""


@dataclass(frozen=True)
class Robustness:
    """Scores of a model under all conditions, and of each corruption; `whole` is the mean over corruptions."""

    conditions: dict[Condition, ConditionScores]
    corruptions: dict[str, CorruptionScores]
    whole: CorruptionScores
