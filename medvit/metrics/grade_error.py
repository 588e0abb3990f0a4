"""Mean error in grades: 0 or more, lower is better.

It applies to classification of ordered grades, over all images: the mean absolute difference of the predicted grade
from the true grade. The predicted grade is that of `medvit.metrics.confusion`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.metrics import ClassMetric
from medvit.metrics.kappa_quadratic import are_grades


def grade_error(counts: Int[Array, "l l"], grades: Sequence[int]) -> float:
    """Compute the mean absolute error, in grades, of a confusion matrix; `grades` has the number of each class."""
    grade = np.array(grades)
    distance = np.abs(grade[:, None] - grade[None, :])
    return float((distance * counts).sum() / counts.sum()) if counts.sum() else float("nan")


METRIC = ClassMetric(
    name="grade_error",
    title="Mean error in grades",
    meaning="Mean error in grades: how many grades the predicted grade is off on average.",
    higher_is_better=False,
    of_all=lambda found: grade_error(found.counts, [int(name) for name in found.classes]),
    applies=are_grades,
    place=85,
)
