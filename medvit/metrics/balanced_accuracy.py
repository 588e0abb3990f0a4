"""Balanced accuracy, the mean of the sensitivities of the classes: 0 to 1, higher is better.

Classification, over all images. By chance it is one over the number of classes, however frequent each is (Brodersen et
al., ICPR 2010).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array


def balanced_accuracy(truth: Int[Array, "n"], chosen: Int[Array, "n"]) -> float:
    """Compute the mean sensitivity of the classes that occur in the truth; NaN without images.

    It never holds a confusion matrix, so that there may be as many classes as images.
    """
    members = np.bincount(truth)
    hits = np.bincount(truth[chosen == truth], minlength=len(members))
    occurs = members > 0
    return float((hits[occurs] / members[occurs]).mean()) if occurs.any() else float("nan")
