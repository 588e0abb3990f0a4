"""Quadratically weighted kappa, agreement in grade beyond chance: -1 to 1, higher is better, 0 for chance agreement.

It applies to classification of ordered grades, over all images (Cohen, Psychological Bulletin 1968).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.metrics import ClassMetric


def quadratic_kappa(counts: Int[Array, "l l"], grades: Sequence[int]) -> float:
    """Compute kappa of a confusion matrix, where an error is weighted by the square of its size in grades.

    `grades` are the class names as numbers, in the order of the rows. The result is NaN if chance agreement is perfect,
    as for images of a single grade.
    """
    grade = np.array(grades)
    cost = np.square(grade[:, None] - grade[None, :])
    by_chance = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    expected = (cost * by_chance).sum()
    return 1.0 - float((cost * counts).sum() / expected) if expected else float("nan")


def are_grades(classes: Sequence[str]) -> bool:
    """Return whether classes are grades: numbers, and more than two of them."""
    return len(classes) > 2 and all(name.lstrip("-").isdigit() for name in classes)


METRIC = ClassMetric(
    name="kappa_quadratic",
    title="Quadratic kappa",
    meaning="Quadratic kappa: agreement in grade beyond chance; an error counts with the square of its size in grades.",
    higher_is_better=True,
    of_all=lambda found: quadratic_kappa(found.counts, [int(name) for name in found.classes]),
    applies=are_grades,
    in_breakdowns=True,
    place=80,
)
