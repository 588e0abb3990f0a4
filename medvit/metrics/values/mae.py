"""Mean absolute error, in the unit of the label: 0 or more, lower is better.

It applies to regression, over all images.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import ValueMetric


def mean_absolute_error(truth: Float[Array, "n"], predicted: Float[Array, "n"]) -> float:
    """Compute the mean of the absolute differences; NaN without images."""
    return float(np.abs(predicted - truth).mean()) if len(truth) else float("nan")


METRIC = ValueMetric(
    name="mae",
    title="Mean absolute error",
    meaning="Mean absolute error: how far predictions are from the truth on average, in the unit of the label.",
    higher_is_better=False,
    compute=mean_absolute_error,
    of_each=lambda truth, predicted: np.abs(predicted - truth),
    bounds=(0.0, np.inf),
    place=10,
)
