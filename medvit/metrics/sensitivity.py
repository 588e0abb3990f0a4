"""Sensitivity (recall) of a class, the fraction of its images that are predicted correctly: 0 to 1, higher is better.

It applies to classification, over all images, each class against the others (Yerushalmy, Public Health Reports 1947).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.metrics import ClassMetric
from medvit.metrics.confusion import ratio
from medvit.statistics.proportion import Proportion


def sensitivity(counts: Int[Array, "l l"]) -> Float[Array, "l"]:
    """Compute the sensitivity of each class from a confusion matrix; NaN for a class without images."""
    return ratio(np.diag(counts), counts.sum(axis=1))


METRIC = ClassMetric(
    name="sensitivity",
    title="Sensitivity",
    meaning="Sensitivity: the share of images of a class that are predicted as this class; with two classes, the class "
    "is the positive one. The predicted class is the most probable one: of two, the one above 0.5.",
    higher_is_better=True,
    of_all=lambda found: float(sensitivity(found.counts)[found.positive]),
    of_each=lambda found: sensitivity(found.counts),
    sample=lambda found, label, patients: Proportion(found.truth == label, found.chosen == label, patients),
    applies=lambda classes: len(classes) == 2,
    is_of_positive=True,
    in_breakdowns=True,
    place=90,
)
