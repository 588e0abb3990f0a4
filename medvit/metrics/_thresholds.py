"""Number of cases and controls at each distinct score, from which metrics over all thresholds are computed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array


def counts_by_score(
    positive: Bool[Array, "n"], scores: Float[Array, "n"]
) -> tuple[Float[Array, "t"], Float[Array, "t"]]:
    """Count the cases (`positive`) and the controls that have each distinct score, in ascending order of score."""
    _, place = np.unique(scores, return_inverse=True)
    every = np.bincount(place)
    cases = np.bincount(place, weights=positive)
    return cases, every - cases
