"""Mean F1 over labels at a threshold of 0.5: 0 to 1, higher is better.

It applies to multi-label classification, over all images with the label. Each label counts equally. It is NaN if a
label is in neither truth nor prediction.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import LabelMetric
from medvit.metrics.confusion import ratio
from medvit.metrics.labels._at_half import counts_at_half


def f1_of_labels(truth: Float[Array, "n l"], probabilities: Float[Array, "n l"]) -> Float[Array, "l"]:
    """Compute 2 TP / (2 TP + FP + FN) of each label; NaN for a label that is in neither truth nor prediction."""
    counts = counts_at_half(truth, probabilities)
    return ratio(2.0 * counts.both, counts.true + counts.found)


METRIC = LabelMetric(
    name="f1_labels_macro",
    title="F1, mean of labels",
    meaning="F1, mean of labels: the harmonic mean of precision and sensitivity of each label at a "
    "probability of 0.5; each label counts equally.",
    higher_is_better=True,
    compute=lambda truth, probabilities: float(np.mean(f1_of_labels(truth, probabilities))),
    place=50,
)
