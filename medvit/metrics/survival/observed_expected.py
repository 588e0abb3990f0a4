"""Observed over expected events up to a time: 0 or more, best at 1.

It applies to survival predictions, over all images: the Kaplan-Meier estimate of the probability of the event up to the
time, divided by the mean predicted probability (calibration in the large).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import Outcomes, SurvivalMetric
from medvit.survival import KaplanMeier


def observed_over_expected(outcomes: Outcomes) -> Float[Array, "h"]:
    """Compute the ratio at each horizon; NaN after the last time of the images, or without images."""
    if not len(outcomes.times):
        return np.full(len(outcomes.horizons), np.nan)
    observed = 1.0 - KaplanMeier.of(outcomes.times, outcomes.events).at(outcomes.horizons)
    expected = 1.0 - outcomes.at_horizons.mean(axis=0)
    is_known = (outcomes.horizons <= outcomes.times.max()) & (expected > 0.0)
    return np.where(is_known, observed / np.where(expected > 0.0, expected, 1.0), np.nan)


METRIC = SurvivalMetric(
    name="observed_expected",
    title="Observed / expected events up to a time",
    meaning="Observed / expected events up to a time: above 1, the model predicts too few events; below 1, too many.",
    higher_is_better=None,
    of_each=observed_over_expected,
    place=60,
)
