"""Mean difference (bias) of predicted minus true values, in the unit of the label: 0 is best.

It applies to regression, over all images (Bland and Altman, The Lancet 1986).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import ValueMetric


def mean_difference(truth: Float[Array, "n"], predicted: Float[Array, "n"]) -> float:
    """Compute the mean of predicted minus true values; NaN without images."""
    return float(np.mean(predicted - truth)) if len(truth) else float("nan")


METRIC = ValueMetric(
    name="mean_difference",
    title="Predicted - true value",
    meaning="Predicted - true value: the mean of the differences; 0 is best, but errors in both directions cancel out.",
    higher_is_better=None,
    compute=mean_difference,
    of_each=lambda truth, predicted: predicted - truth,
    place=40,
)
