"""Relative volume error, the mean of |predicted - true| / true volume: 0 or more, lower is better; 0.1 is 10 %.

It applies to segmentation of volumes, over the images that contain the class. A missed structure has the error 1.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import VolumeMetric


def volume_error_relative(true_ml: Float[Array, "n"], found_ml: Float[Array, "n"]) -> float:
    """Compute the mean of the absolute differences divided by the true volume; NaN without a true volume above 0."""
    present = true_ml > 0.0
    errors = np.abs(found_ml[present] - true_ml[present]) / true_ml[present]
    return float(errors.mean()) if errors.size else float("nan")


METRIC = VolumeMetric(
    name="volume_error_relative",
    title="Relative volume error",
    meaning="Relative volume error: the mean of the absolute differences between predicted and true volume, as a "
    "fraction of the true volume; images without the class do not count.",
    higher_is_better=False,
    compute=volume_error_relative,
    place=42,
)
