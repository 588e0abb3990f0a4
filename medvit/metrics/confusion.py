"""Confusion matrix, from which sensitivity, specificity, F1 and kappa are computed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array


def confusion_matrix(truth: Int[Array, "n"], chosen: Int[Array, "n"], num_classes: int) -> Int[Array, "l l"]:
    """Count the images of each true class (rows) with each predicted class (columns)."""
    cells = np.bincount(truth * num_classes + chosen, minlength=num_classes * num_classes)
    return cells.reshape(num_classes, num_classes)


def ratio(part: Int[Array, "l"], whole: Int[Array, "l"]) -> Float[Array, "l"]:
    """Divide `part` by `whole`, element by element; NaN where `whole` is 0."""
    with np.errstate(invalid="ignore"):
        return part / whole
