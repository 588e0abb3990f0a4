"""F1, the harmonic mean of precision and sensitivity, averaged over the classes: 0 to 1, higher is better.

It applies to classification, over all images (van Rijsbergen, Information Retrieval, 1979).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.metrics import ClassMetric


def f1_macro(counts: Int[Array, "l l"]) -> float:
    """Compute the mean F1 of a confusion matrix over the classes in truth or prediction; NaN without images."""
    members = counts.sum(axis=0) + counts.sum(axis=1)
    occurs = members > 0
    return float((2.0 * np.diag(counts)[occurs] / members[occurs]).mean()) if occurs.any() else float("nan")


METRIC = ClassMetric(
    name="f1_macro",
    title="F1, mean of classes",
    meaning="F1: the harmonic mean of precision and sensitivity of a class, averaged over the classes.",
    higher_is_better=True,
    of_all=lambda found: f1_macro(found.counts),
    place=50,
)
