"""Integrated Brier score: 0 to 1, lower is better.

It applies to survival predictions, over all images: the mean of the Brier score (`brier_at`) over the times from 0 to
the last time of the model, or to that of the images if it is earlier (Graf et al., Statistics in Medicine 1999). The
integral is computed by the trapezoidal rule on equally spaced times.
"""

from __future__ import annotations

import numpy as np

from medvit.metrics import Outcomes, SurvivalMetric
from medvit.metrics.survival.brier_at import brier_scores


def integrated_brier(outcomes: Outcomes) -> float:
    """Compute the integrated Brier score; NaN without images."""
    scores = brier_scores(outcomes, outcomes.grid, outcomes.curves)
    known = ~np.isnan(scores)
    if not known.any():
        return float("nan")
    times, scores = np.append(0.0, outcomes.grid[known]), np.append(0.0, scores[known])
    return float(np.trapezoid(scores, times) / times[-1])


METRIC = SurvivalMetric(
    name="integrated_brier",
    title="Integrated Brier score",
    meaning="Integrated Brier score: mean squared error of the predicted survival over all times, corrected for "
    "censoring; 0 is best, and a useful model is below the value without images, by Kaplan-Meier.",
    higher_is_better=False,
    of_all=integrated_brier,
    place=30,
)
