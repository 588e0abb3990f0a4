"""Predicted classes, and the confusion matrix, from which sensitivity, specificity, F1 and kappa are computed.

The predicted class of an image is the most probable one. Of an ordinal classification, it is the median grade, which
has the smallest expected error in grades: the number of grades that are exceeded with a probability above 0.5 (Shi et
al., Pattern Analysis and Applications 2023).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array


def most_probable_class(probabilities: Float[Array, "n l"]) -> Int[Array, "n"]:
    """Return the index of the most probable class of each image; the first one of equally probable classes."""
    return np.asarray(probabilities.argmax(axis=1))


def median_grade(probabilities: Float[Array, "n l"]) -> Int[Array, "n"]:
    """Return the index of the median grade of each image, given the probabilities of ascending grades."""
    from_last = np.cumsum(probabilities[:, ::-1], axis=1, dtype=np.float64)  # of the last grade, of the last two, ...
    return np.asarray((from_last[:, :-1] > 0.5).sum(axis=1))


def confusion_matrix(truth: Int[Array, "n"], chosen: Int[Array, "n"], num_classes: int) -> Int[Array, "l l"]:
    """Count the images of each true class (rows) with each predicted class (columns)."""
    cells = np.bincount(truth * num_classes + chosen, minlength=num_classes * num_classes)
    return cells.reshape(num_classes, num_classes)


def ratio(part: Int[Array, "l"], whole: Int[Array, "l"]) -> Float[Array, "l"]:
    """Divide `part` by `whole`, element by element; NaN where `whole` is 0."""
    with np.errstate(invalid="ignore"):
        return part / whole
