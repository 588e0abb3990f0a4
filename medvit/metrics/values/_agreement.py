"""Limits of agreement between true and predicted numbers (Bland and Altman, The Lancet 1986)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

WIDTH = 1.96
"""Half the width of the limits of agreement in standard deviations, so that they contain 95 % of normal differences."""


def limits(truth: Float[Array, "n"], predicted: Float[Array, "n"]) -> tuple[float, float]:
    """Return the mean difference minus and plus 1.96 standard deviations; NaN with fewer than 2 images."""
    differences = predicted - truth
    if len(differences) < 2:
        return float("nan"), float("nan")
    half = WIDTH * np.std(differences, ddof=1)
    return float(differences.mean() - half), float(differences.mean() + half)
