"""AUROC at a time, cumulative and dynamic: 0 to 1, higher is better, 0.5 for random predictions.

It applies to survival predictions, over all images: the probability that an image with the event up to the time (case)
has a lower predicted survival at this time than an image without the event up to then (control). Images that are
censored before the time do not count. To make up for them, the cases are weighted by the inverse probability of not
being censored (Uno et al., JASA 2007), which is estimated from the evaluated images.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import Outcomes, SurvivalMetric
from medvit.metrics.auroc import area


def aurocs(outcomes: Outcomes) -> Float[Array, "h"]:
    """Compute the AUROC at each horizon; NaN without a case or without a control."""
    times, events = outcomes.times, outcomes.events
    weights = np.divide(events, outcomes.uncensored.before(times), where=events, out=np.zeros(len(times)))
    return np.array(
        [
            _weighted(np.where(times <= horizon, weights, 0.0), times > horizon, 1.0 - survival)
            for horizon, survival in zip(outcomes.horizons, outcomes.at_horizons.T, strict=True)
        ]
    )


def _weighted(cases: Float[Array, "n"], controls: Float[Array, "n"], risks: Float[Array, "n"]) -> float:
    """Compute the AUROC from the weights that each image has as a case and as a control."""
    _, place = np.unique(risks, return_inverse=True)
    return area(np.bincount(place, weights=cases), np.bincount(place, weights=controls))


METRIC = SurvivalMetric(
    name="auroc_at",
    title="AUROC at a time",
    meaning="AUROC at a time: chance that a patient with the event up to then has a higher predicted risk than one "
    "without it, corrected for censoring.",
    higher_is_better=True,
    of_each=aurocs,
    place=40,
)
