"""Mean average precision over labels: 0 to 1, higher is better; for random scores, the mean share of cases.

It applies to multi-label classification, over all images with the label. Each label counts equally.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import LabelMetric
from medvit.metrics.average_precision import average_precision


def average_precision_of_labels(truth: Float[Array, "n l"], probabilities: Float[Array, "n l"]) -> Float[Array, "l"]:
    """Compute the average precision of each label on the images whose truth (0 or 1) is known; NaN without a case."""
    known = ~np.isnan(truth)
    pairs = zip(truth.T, probabilities.T, known.T, strict=True)
    return np.array([average_precision(true[those] == 1, found[those]) for true, found, those in pairs])


METRIC = LabelMetric(
    name="average_precision_macro",
    title="Average precision, mean of labels",
    meaning="Average precision, mean of labels: each label counts equally; undefined if that of a label is.",
    higher_is_better=True,
    compute=lambda truth, probabilities: float(average_precision_of_labels(truth, probabilities).mean()),
    place=30,
)
