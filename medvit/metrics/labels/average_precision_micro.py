"""Average precision of all labels together: 0 to 1, higher is better; for random scores, the share of positive labels.

It applies to multi-label classification. All known labels of all images are pooled, each as a case or a control.
Frequent labels therefore count more, and probabilities must be comparable between labels.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import LabelMetric
from medvit.metrics.average_precision import average_precision


def pooled_average_precision(truth: Float[Array, "n l"], probabilities: Float[Array, "n l"]) -> float:
    """Compute the average precision of all pairs of image and label whose truth (0 or 1) is known.

    NaN without a case.
    """
    known = ~np.isnan(truth)
    return average_precision(truth[known] == 1, probabilities[known])


METRIC = LabelMetric(
    name="average_precision_micro",
    title="Average precision, labels pooled",
    meaning="Average precision, labels pooled: the area under the precision-recall curve of all labels of "
    "all images together.",
    higher_is_better=True,
    compute=pooled_average_precision,
    place=40,
)
