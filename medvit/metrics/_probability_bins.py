"""Bins of probability, and the decomposition of the Brier score that is computed from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

NUM_BINS = 10
"""Number of bins of equal width in [0, 1]."""


@dataclass(frozen=True)
class BrierParts:
    """Parts of the Brier score, summed over the classes: the score is reliability - resolution + uncertainty."""

    reliability: float
    resolution: float
    uncertainty: float


def probability_bins(probabilities: Float[Array, "*s"]) -> Int[Array, "*s"]:
    """Return the bin of each probability, from 0 to `NUM_BINS` - 1."""
    return np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)


def brier_parts(truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> BrierParts:
    """Return the parts of the Brier score (Murphy, Journal of Applied Meteorology 1973).

    The probabilities of each class are put into bins. Probabilities within a bin differ, for which Murphy's equation
    does not hold. Therefore, the resolution is the generalized one of Stephenson et al. (Weather and Forecasting 2008),
    which contains the variance and covariance within bins, so that the equation is exact.
    """
    num_images, num_classes = probabilities.shape
    outcomes = np.eye(num_classes)[truth]
    places = (probability_bins(probabilities) + NUM_BINS * np.arange(num_classes)).ravel()  # a bin of one class
    sizes = np.bincount(places, minlength=NUM_BINS * num_classes)
    sums = (np.bincount(places, one.ravel(), NUM_BINS * num_classes) for one in (probabilities, outcomes))
    forecast, outcome = (one / np.maximum(sizes, 1) for one in sums)
    shares, rates = sizes / num_images, outcomes.mean(axis=0)
    between = shares @ np.square(outcome - np.repeat(rates, NUM_BINS))
    departure = probabilities.ravel() - forecast[places]
    covariance = (outcomes.ravel() - outcome[places]) @ departure
    within = (departure @ departure - 2.0 * covariance) / num_images
    return BrierParts(
        reliability=float(shares @ np.square(forecast - outcome)),
        resolution=float(between - within),
        uncertainty=float((rates * (1.0 - rates)).sum()),
    )
