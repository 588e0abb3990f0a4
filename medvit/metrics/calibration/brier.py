"""Brier score, the squared distance of probabilities from the truth: 0 to 2, lower is better.

It applies to classification. Squared differences are summed over the classes and averaged over images (Brier, Monthly
Weather Review 1950). For two classes it is twice the score of class 1 alone.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.metrics import ClassMetric


def brier(truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> float:
    """Compute the mean over images of the squared distance of the probabilities from the one-hot truth."""
    return float(np.square(probabilities - np.eye(probabilities.shape[1])[truth]).sum(axis=1).mean())


METRIC = ClassMetric(
    name="brier",
    title="Brier score",
    meaning="Brier score: squared distance of the probabilities from the truth; 0 is best, 2 worst.",
    higher_is_better=False,
    of_all=lambda found: brier(found.truth, found.probabilities),
    place=60,
)
