"""Volume error, the mean absolute difference between predicted and true volume, in mL: 0 or more, lower is better.

It applies to segmentation of volumes, over all images, for each class.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import VolumeMetric


def volume_error(true_ml: Float[Array, "n"], found_ml: Float[Array, "n"]) -> float:
    """Compute the mean absolute difference of volumes; NaN without images."""
    return float(np.abs(found_ml - true_ml).mean()) if true_ml.size else float("nan")


METRIC = VolumeMetric(
    name="volume_error",
    title="Volume error",
    meaning="Volume error: the mean of the absolute differences between predicted and true volume.",
    higher_is_better=False,
    unit="ml",
    compute=volume_error,
    place=41,
)
