"""Average precision, the step-wise area under the precision-recall curve: 0 to 1, higher is better.

Classification, over all images; by chance it is the share of cases. The curve is not interpolated linearly, which would
overestimate the area (Davis and Goadrich, ICML 2006).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from medvit.metrics.thresholds import counts_by_score


def average_precision(positive: Bool[Array, "n"], scores: Float[Array, "n"]) -> float:
    """Compute the mean precision at each threshold, weighted by the cases it adds, without interpolation.

    NaN without a case.
    """
    cases, controls = (counts[::-1] for counts in counts_by_score(positive, scores))
    found = np.cumsum(cases)
    num_cases = cases.sum()
    return float((cases * found / (found + np.cumsum(controls))).sum() / num_cases) if num_cases else float("nan")
