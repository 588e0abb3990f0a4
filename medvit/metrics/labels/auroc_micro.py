"""AUROC of all labels together: 0 to 1, higher is better, 0.5 for random scores.

It applies to multi-label classification. All known labels of all images are pooled, each as a case or a control.
Frequent labels therefore count more, and probabilities must be comparable between labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import LabelMetric
from medvit.metrics.auroc import auroc
from medvit.statistics.auroc import Ranking


def pooled_auroc(truth: Float[Array, "n l"], probabilities: Float[Array, "n l"]) -> float:
    """Compute the AUROC of all pairs of image and label whose truth (0 or 1) is known, not NaN; NaN if undefined."""
    known = ~np.isnan(truth)
    return auroc(truth[known] == 1, probabilities[known])


def ranking(truth: Float[Array, "n l"], probabilities: Float[Array, "n l"], patients: Sequence[str]) -> Ranking:
    """Return all pairs of image and label whose truth is known, with their patients."""
    known = ~np.isnan(truth)
    images, _ = np.nonzero(known)
    return Ranking(truth[known] == 1, probabilities[known], [patients[int(image)] for image in images])


METRIC = LabelMetric(
    name="auroc_micro",
    title="AUROC, labels pooled",
    meaning="AUROC, labels pooled: chance that a positive label of an image scores above a negative one of any image.",
    higher_is_better=True,
    compute=pooled_auroc,
    sample=ranking,
    place=20,
)
