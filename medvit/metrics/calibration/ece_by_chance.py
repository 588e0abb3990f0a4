"""Expected calibration error of a perfectly calibrated model with the same confidences: the bias of the ECE by chance.

It applies to classification, over all images. Even for a perfectly calibrated model, the accuracy of a bin with few
images differs from its confidence by chance, so that the ECE is above 0 (Broecker and Smith, Weather and Forecasting
2007; Kumar et al., NeurIPS 2019). The difference has approximately a normal distribution with the mean 0 and a known
variance, of which this is the mean absolute value.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import ClassMetric
from medvit.metrics._probability_bins import probability_bins


def ece_by_chance(probabilities: Float[Array, "n l"]) -> float:
    """Compute the expected ECE if each prediction is right with the probability of its confidence."""
    confidence = probabilities.max(axis=1)
    variances = np.bincount(probability_bins(confidence), confidence * (1.0 - confidence))
    return float(np.sqrt(variances * 2.0 / np.pi).sum() / len(confidence))


METRIC = ClassMetric(
    name="ece_by_chance",
    title="Calibration error by chance",
    meaning="Calibration error by chance: the expected calibration error that a perfectly calibrated model would have "
    "on average with these confidences and this number of images, which is the bias of the expected calibration error.",
    higher_is_better=None,
    of_all=lambda found: ece_by_chance(found.probabilities),
    place=71,
)
