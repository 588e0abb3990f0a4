"""Numbers of right and wrong labels at a threshold of 0.5, without labels whose truth is unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array


@dataclass(frozen=True)
class LabelCounts:
    """Number of images with each label (L,) in truth and prediction, in the truth, and in the prediction."""

    both: Float[Array, "l"]
    true: Float[Array, "l"]
    found: Float[Array, "l"]


def counts_at_half(truth: Float[Array, "n l"], probabilities: Float[Array, "n l"]) -> LabelCounts:
    """Count the labels with a probability above 0.5 among images whose truth (0 or 1) is known, not NaN."""
    known = ~np.isnan(truth)
    true, found = known & (truth == 1), known & (probabilities > 0.5)
    return LabelCounts(*(one.sum(axis=0).astype(np.float64) for one in (true & found, true, found)))
