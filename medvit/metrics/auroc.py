"""Area under the receiver operating characteristic curve (AUROC): 0 to 1, higher is better, 0.5 for random scores.

It applies to classification, over all images. It equals the probability that a random case scores higher than a random
control (Hanley and McNeil, Radiology 1982).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

from medvit.metrics import ClassMetric
from medvit.metrics._thresholds import counts_by_score
from medvit.statistics.auroc import Ranking


def auroc(positive: Bool[Array, "n"], scores: Float[Array, "n"]) -> float:
    """Compute the probability that a case (`positive`) scores higher than a control; ties count half.

    NaN without a case or without a control.
    """
    return area(*counts_by_score(positive, scores))


def area(cases: Float[Array, "t"], controls: Float[Array, "t"]) -> float:
    """Compute AUROC from the numbers of cases and controls at each distinct score, in ascending order of score."""
    below = np.cumsum(controls) - controls / 2.0
    pairs = cases.sum() * controls.sum()
    return float((cases * below).sum() / pairs) if pairs else float("nan")


def one_vs_rest_auroc(truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> Float[Array, "l"]:
    """Compute the AUROC of each class against all other classes.

    It is NaN for a class if all images, or no images, belong to it.
    """
    return np.array([auroc(truth == label, probabilities[:, label]) for label in range(probabilities.shape[1])])


def mean_auroc(truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> float:
    """Compute the mean one-vs-rest AUROC over classes that have cases and controls; NaN if no class has both.

    Raises:
        ValueError: If a probability is not finite.
    """
    if not np.isfinite(probabilities).all():
        raise ValueError("AUROC requires finite probabilities; found NaN or infinity")
    areas = one_vs_rest_auroc(truth, probabilities)
    defined = areas[~np.isnan(areas)]
    return float(defined.mean()) if defined.size else float("nan")


METRIC = ClassMetric(
    name="auroc",
    title="AUROC",
    meaning="AUROC: chance that a case scores above a control; for more than two classes, the mean over the classes, "
    "each against the rest.",
    higher_is_better=True,
    of_all=lambda found: float(np.mean([area(*counts) for counts in found.by_score])),  # undefined where one is
    sample=lambda found, label, patients: Ranking(found.truth == label, found.probabilities[:, label], patients),
    parts=lambda found, patients: [
        Ranking(found.truth == label, found.probabilities[:, label], patients) for label in found.targets
    ],
    of_each=lambda found: np.array([area(*counts) for counts in found.by_score]),
    in_breakdowns=True,
    place=10,
)
