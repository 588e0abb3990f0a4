"""Root mean squared error, in the unit of the label: 0 or more, lower is better.

It applies to regression, over all images. Large errors count more than in the mean absolute error.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import ValueMetric


def root_mean_squared_error(truth: Float[Array, "n"], predicted: Float[Array, "n"]) -> float:
    """Compute the root of the mean squared difference; NaN without images."""
    return float(np.sqrt(np.square(predicted - truth).mean())) if len(truth) else float("nan")


METRIC = ValueMetric(
    name="rmse",
    title="Root mean squared error",
    meaning="Root mean squared error: typical error in the unit of the label; large errors count more.",
    higher_is_better=False,
    compute=root_mean_squared_error,
    place=20,
)
