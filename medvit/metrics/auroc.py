"""Area under the receiver operating characteristic curve (AUROC): 0 to 1, higher is better, 0.5 by chance.

Classification, over all images. It equals the probability that a case scores above a control (Hanley and McNeil,
Radiology 1982).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

from medvit.metrics.thresholds import counts_by_score


def auroc(positive: Bool[Array, "n"], scores: Float[Array, "n"]) -> float:
    """Compute the probability that a case (`positive`) scores above a control, ties counting half.

    NaN without a case or without a control.
    """
    cases, controls = counts_by_score(positive, scores)
    below = np.cumsum(controls) - controls / 2.0
    pairs = cases.sum() * controls.sum()
    return float((cases * below).sum() / pairs) if pairs else float("nan")


def one_vs_rest_auroc(truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> Float[Array, "l"]:
    """Compute AUROC of each class against the rest; NaN for a class that all or none of the images have."""
    return np.array([auroc(truth == label, probabilities[:, label]) for label in range(probabilities.shape[1])])


def mean_auroc(truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> float:
    """Compute the mean one-vs-rest AUROC of the classes that have cases and controls; NaN if there is none.

    Raises:
        ValueError: If a probability is not finite.
    """
    if not np.isfinite(probabilities).all():
        raise ValueError("AUROC needs finite probabilities; found NaN or infinity")
    areas = one_vs_rest_auroc(truth, probabilities)
    defined = areas[~np.isnan(areas)]
    return float(defined.mean()) if defined.size else float("nan")
