"""Volume bias, the mean of predicted minus true volume, in mL: 0 is best.

It applies to segmentation of volumes, over all images, for each class (Bland and Altman, The Lancet 1986).
"""

from __future__ import annotations

from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import VolumeMetric


def volume_bias(true_ml: Float[Array, "n"], found_ml: Float[Array, "n"]) -> float:
    """Compute the mean of predicted minus true volume; NaN without images."""
    bias = found_ml - true_ml
    return float(bias.mean()) if bias.size else float("nan")


METRIC = VolumeMetric(
    name="volume_bias",
    title="Found - true volume",
    meaning="Found - true volume: the mean of the differences; 0 is best, but errors in both directions cancel out.",
    higher_is_better=None,
    unit="ml",
    compute=volume_bias,
    place=40,
)
