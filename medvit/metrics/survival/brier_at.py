"""Brier score at a time: 0 to 1, lower is better, 0.25 for always predicting 0.5.

It applies to survival predictions, over all images: the mean squared difference between the predicted probability of
being without the event at the time and the truth, 1 without and 0 with the event (Graf et al., Statistics in Medicine
1999). Images that are censored before the time do not count. To make up for them, the others are weighted by the
inverse probability of not being censored, which is estimated from the evaluated images.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import Outcomes, SurvivalMetric


def brier_scores(outcomes: Outcomes, asked: Float[Array, "t"], survival: Float[Array, "n t"]) -> Float[Array, "t"]:
    """Compute the Brier score at each time; NaN after the last time of the images, or without images."""
    times, uncensored = outcomes.times, outcomes.uncensored
    if not len(times):
        return np.full(len(asked), np.nan)
    of_events = np.divide(outcomes.events, uncensored.before(times), where=outcomes.events, out=np.zeros(len(times)))
    of_others = 1.0 / np.where(asked < times.max(), uncensored.at(asked), 1.0)
    is_after = times[:, None] > asked
    weights = np.where(is_after, of_others, of_events[:, None])
    scores = (weights * np.square(is_after - survival)).mean(axis=0)
    return np.where(asked <= times.max(), scores, np.nan)


METRIC = SurvivalMetric(
    name="brier_at",
    title="Brier score at a time",
    meaning="Brier score at a time: mean squared error of the predicted survival, corrected for censoring; 0 is best.",
    higher_is_better=False,
    of_each=lambda outcomes: brier_scores(outcomes, outcomes.horizons, outcomes.at_horizons),
    place=50,
)
