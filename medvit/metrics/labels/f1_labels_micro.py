"""F1 of all labels together at a threshold of 0.5: 0 to 1, higher is better.

It applies to multi-label classification. All known labels of all images are pooled, so that frequent labels count more.
It is NaN if no label is in truth or prediction.
"""

from __future__ import annotations

from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import LabelMetric
from medvit.metrics.labels._at_half import counts_at_half


def pooled_f1(truth: Float[Array, "n l"], probabilities: Float[Array, "n l"]) -> float:
    """Compute 2 TP / (2 TP + FP + FN) over all pairs of image and label whose truth is known."""
    counts = counts_at_half(truth, probabilities)
    total = float(counts.true.sum() + counts.found.sum())
    return 2.0 * float(counts.both.sum()) / total if total else float("nan")


METRIC = LabelMetric(
    name="f1_labels_micro",
    title="F1, labels pooled",
    meaning="F1, labels pooled: the harmonic mean of precision and sensitivity of all labels of all images "
    "together, at a probability of 0.5.",
    higher_is_better=True,
    compute=pooled_f1,
    place=60,
)
