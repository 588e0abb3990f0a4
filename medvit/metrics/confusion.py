"""Confusion matrix, and the sensitivity, specificity and F1 that derive from it: 0 to 1, higher is better.

Classification, over all images, each class against the rest (Yerushalmy, Public Health Reports 1947; F1: van
Rijsbergen, Information Retrieval, 1979).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array


def confusion_matrix(truth: Int[Array, "n"], chosen: Int[Array, "n"], num_classes: int) -> Int[Array, "l l"]:
    """Count the images of each true class (rows) that are given each class (columns)."""
    cells = np.bincount(truth * num_classes + chosen, minlength=num_classes * num_classes)
    return cells.reshape(num_classes, num_classes)


def sensitivity(counts: Int[Array, "l l"]) -> Float[Array, "l"]:
    """Compute for each class the share of its images that are given it (recall); NaN for a class without images."""
    return _ratio(np.diag(counts), counts.sum(axis=1))


def specificity(counts: Int[Array, "l l"]) -> Float[Array, "l"]:
    """Compute for each class the share of the other images that are not given it; NaN if there are no others."""
    others = counts.sum() - counts.sum(axis=1)
    given = counts.sum(axis=0) - np.diag(counts)
    return _ratio(others - given, others)


def f1_macro(counts: Int[Array, "l l"]) -> float:
    """Compute the mean F1 of the classes that occur in truth or choice; NaN without images."""
    members = counts.sum(axis=0) + counts.sum(axis=1)
    occurs = members > 0
    return float((2.0 * np.diag(counts)[occurs] / members[occurs]).mean()) if occurs.any() else float("nan")


def _ratio(part: Int[Array, "l"], whole: Int[Array, "l"]) -> Float[Array, "l"]:
    with np.errstate(invalid="ignore"):
        return part / whole
