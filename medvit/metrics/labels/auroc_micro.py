"""AUROC of all labels together: 0 to 1, higher is better, 0.5 for random scores.

It applies to multi-label classification. All known labels of all images are pooled, each as a case or a control.
Frequent labels therefore count more, and probabilities must be comparable between labels.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import LabelMetric
from medvit.metrics.auroc import auroc


def pooled_auroc(truth: Float[Array, "n l"], probabilities: Float[Array, "n l"]) -> float:
    """Compute the AUROC of all pairs of image and label whose truth (0 or 1) is known, not NaN; NaN if undefined."""
    known = ~np.isnan(truth)
    return auroc(truth[known] == 1, probabilities[known])


METRIC = LabelMetric(
    name="auroc_micro",
    title="AUROC, labels pooled",
    meaning="AUROC, labels pooled: chance that a positive label of an image scores above a negative one of any image.",
    higher_is_better=True,
    compute=pooled_auroc,
    place=20,
)
