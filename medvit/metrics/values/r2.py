"""Coefficient of determination (R2): at most 1, higher is better, 0 for always predicting the mean of the images.

It applies to regression, over all images: 1 minus the sum of squared errors divided by the sum of squared differences
of the true values from their mean (Kvalseth, The American Statistician 1985, equation 1).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import ValueMetric


def determination(truth: Float[Array, "n"], predicted: Float[Array, "n"]) -> float:
    """Compute R2; NaN if all images have the same true value."""
    if not len(truth) or (truth == truth[0]).all():
        return float("nan")
    return 1.0 - float(np.square(predicted - truth).sum() / np.square(truth - truth.mean()).sum())


METRIC = ValueMetric(
    name="r2",
    title="R2",
    meaning="R2: share of the variance of the truth that is predicted; 0 for always predicting the mean.",
    higher_is_better=True,
    compute=determination,
    place=30,
)
