"""Accuracy, the fraction of images whose predicted class is the true one: 0 to 1, higher is better.

It applies to classification, over all images. Always predicting the most frequent class may give a high accuracy; see
`balanced_accuracy`.
"""

from __future__ import annotations

from jaxtyping import Int
from numpy import ndarray as Array

from medvit.metrics import ClassMetric
from medvit.statistics.proportion import Proportion


def accuracy(truth: Int[Array, "n"], chosen: Int[Array, "n"]) -> float:
    """Compute the fraction of images whose predicted class is the true one; NaN without images."""
    return float((chosen == truth).mean()) if len(truth) else float("nan")


METRIC = ClassMetric(
    name="accuracy",
    title="Accuracy",
    meaning="Accuracy: the share of images whose class is predicted correctly; always predicting the most frequent "
    "class can score high. The predicted class is the most probable one; of an ordinal classification, it is the "
    "median grade.",
    higher_is_better=True,
    of_all=lambda found: accuracy(found.truth, found.chosen),
    sample=lambda found, _, patients: Proportion.of_all(found.chosen == found.truth, patients),
    in_breakdowns=True,
    place=30,
)
