"""Mean AUROC over labels: 0 to 1, higher is better, 0.5 for random scores.

It applies to multi-label classification, over all images with the label. Each label counts equally.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.metrics import LabelMetric
from medvit.metrics.auroc import auroc
from medvit.statistics.auroc import Ranking


def auroc_of_labels(truth: Float[Array, "n l"], probabilities: Float[Array, "n l"]) -> Float[Array, "l"]:
    """Compute the AUROC of each label on the images whose truth (0 or 1) is known, not NaN; NaN if undefined."""
    known = ~np.isnan(truth)
    pairs = zip(truth.T, probabilities.T, known.T, strict=True)
    return np.array([auroc(true[those] == 1, found[those]) for true, found, those in pairs])


def rankings(truth: Float[Array, "n l"], probabilities: Float[Array, "n l"], patients: Sequence[str]) -> list[Ranking]:
    """Return the images on which each label is known, with their scores and patients."""
    known = [np.flatnonzero(~np.isnan(true)) for true in truth.T]
    return [
        Ranking(truth[images, label] == 1, probabilities[images, label], [patients[int(image)] for image in images])
        for label, images in enumerate(known)
    ]


METRIC = LabelMetric(
    name="auroc_macro",
    title="AUROC, mean of labels",
    meaning="AUROC, mean of labels: each label counts equally; undefined if that of a label is.",
    higher_is_better=True,
    compute=lambda truth, probabilities: float(auroc_of_labels(truth, probabilities).mean()),
    parts=rankings,
    place=10,
)
