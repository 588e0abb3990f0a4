"""Average precision, the step-wise area under the precision-recall curve: 0 to 1, higher is better.

It applies to classification, over all images. For random scores, its expectation is the fraction of cases. The curve is
not interpolated linearly, which would overestimate the area (Davis and Goadrich, ICML 2006).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from medvit.metrics import ClassMetric
from medvit.metrics._thresholds import counts_by_score


def average_precision(positive: Bool[Array, "n"], scores: Float[Array, "n"]) -> float:
    """Compute the mean of the precision at each threshold, weighted by the number of cases added at that threshold.

    NaN without a case.
    """
    return mean_precision(*counts_by_score(positive, scores))


def mean_precision(cases: Float[Array, "t"], controls: Float[Array, "t"]) -> float:
    """Compute average precision from the numbers of cases and controls at each distinct score, in ascending order."""
    cases, controls = cases[::-1], controls[::-1]
    found = np.cumsum(cases)
    num_cases = cases.sum()
    return float((cases * found / (found + np.cumsum(controls))).sum() / num_cases) if num_cases else float("nan")


METRIC = ClassMetric(
    name="average_precision",
    title="Average precision",
    meaning="Average precision: the area under the precision-recall curve; by chance it is the share of cases. For "
    "more than two classes, the mean over the classes, each against the rest.",
    higher_is_better=True,
    of_all=lambda found: float(np.mean([mean_precision(*counts) for counts in found.by_score])),
    is_of_positive=True,
    in_breakdowns=True,
    place=20,
)
