"""Quadratically weighted kappa, agreement in grade beyond chance: -1 to 1, higher is better, 0 by chance.

Classification of ordered grades, over all images (Cohen, Psychological Bulletin 1968).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array


def quadratic_kappa(counts: Int[Array, "l l"], grades: Sequence[int]) -> float:
    """Compute kappa of a confusion matrix in which an error costs the square of its size in grades.

    `grades` are the numbers of the classes. NaN where chance makes no error, as with images of one grade only.
    """
    grade = np.array(grades)
    cost = np.square(grade[:, None] - grade[None, :])
    by_chance = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    expected = (cost * by_chance).sum()
    return 1.0 - float((cost * counts).sum() / expected) if expected else float("nan")
