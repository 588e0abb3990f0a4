"""Expected calibration error (ECE) and the reliability bins it is computed from: 0 to 1, lower is better.

It applies to classification, over all images (Guo et al., ICML 2017). The confidence is the probability of the most
probable class, and accuracy that of this class, also for an ordinal classification, which predicts the median grade.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

from medvit.metrics import ClassMetric
from medvit.metrics._probability_bins import NUM_BINS, probability_bins


def expected_calibration_error(truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> float:
    """Compute the mean, over images, of |accuracy - confidence| of the bin of each image."""
    return float(
        sum(share * abs(accuracy - confidence) for confidence, accuracy, share in reliability(truth, probabilities))
    )


def reliability(truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> list[tuple[float, float, float]]:
    """Return mean confidence, accuracy, and fraction of images for each non-empty bin."""
    found = ConfidenceBins.of(truth, probabilities)
    bins = found.bins
    return [
        (float(found.confidence[bins == b].mean()), float(found.is_right[bins == b].mean()), float((bins == b).mean()))
        for b in np.unique(bins)
    ]


@dataclass(frozen=True)
class ConfidenceBins:
    """Confidence of each image, whether its most probable class is right, and its bin, from 0 to `NUM_BINS` - 1."""

    confidence: Float[Array, "n"]
    is_right: Bool[Array, "n"]
    bins: Int[Array, "n"]
    width: ClassVar[float] = 1.0 / NUM_BINS

    @classmethod
    def of(cls, truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> ConfidenceBins:
        """Return the bins of images, given the true class of each."""
        confidence = probabilities.max(axis=1)
        return cls(confidence, probabilities.argmax(axis=1) == truth, probability_bins(confidence))


METRIC = ClassMetric(
    name="ece",
    title="Expected calibration error",
    meaning="Expected calibration error: the mean difference between predicted probabilities and observed frequencies; "
    "0 is best.",
    higher_is_better=False,
    of_all=lambda found: expected_calibration_error(found.truth, found.probabilities),
    place=70,
)
