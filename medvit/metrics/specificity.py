"""Specificity of a class: the fraction of images of other classes that are not predicted as this class.

Its range is 0 to 1; higher is better. It applies to classification, over all images, each class against the others
(Yerushalmy, Public Health Reports 1947).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.metrics import ClassMetric
from medvit.metrics.confusion import ratio
from medvit.statistics.proportion import Proportion


def specificity(counts: Int[Array, "l l"]) -> Float[Array, "l"]:
    """Compute the specificity of each class from a confusion matrix.

    The result is NaN for a class if all images belong to it.
    """
    others = counts.sum() - counts.sum(axis=1)
    given = counts.sum(axis=0) - np.diag(counts)
    return ratio(others - given, others)


METRIC = ClassMetric(
    name="specificity",
    title="Specificity",
    meaning="Specificity: the share of images outside a class that are not predicted as this class; with two classes, "
    "the class is the positive one.",
    higher_is_better=True,
    of_all=lambda found: float(specificity(found.counts)[found.positive]),
    of_each=lambda found: specificity(found.counts),
    sample=lambda found, label, patients: Proportion(found.truth != label, found.chosen != label, patients),
    applies=lambda classes: len(classes) == 2,
    is_of_positive=True,
    in_breakdowns=True,
    place=100,
)
