"""Conformal prediction: sets of classes, or intervals of numbers, that contain the truth with a chosen probability.

A score states how badly a class or number fits the prediction of an image. Its limit is a quantile of the scores of the
true values of calibration patients, which were used for nothing else. The prediction set of a new image has all values
whose score is at most the limit (Vovk et al., Algorithmic Learning in a Random World 2005; split conformal prediction).
The scores are:

- lac: 1 minus the probability of the class (Sadinle et al., Journal of the American Statistical Association 2019). The
  sets are the smallest on average; a set may be empty.
- aps: the probability of the class and of all more probable ones (Romano et al., NeurIPS 2020), here without the random
  part. The size of the sets follows the difficulty of the image more closely.
- raps: as aps, plus a penalty for each class beyond the first ones in the order of probability (Angelopoulos et al.,
  ICLR 2021), which avoids large sets.
- residual: the absolute difference between a number and the predicted one (Lei et al., JASA 2018).
- normalized: as residual, divided by the standard deviation of the numbers that the models of an ensemble predict, so
  that intervals are wider where these disagree.

Patients are exchangeable, images of one patient are not. Images of the same patient therefore share the weight of one
patient (hierarchical conformal prediction, Lee, Barber and Willett, Distribution-free inference with hierarchical data
2023). The guarantee is for an image that is drawn at random from a new patient. If each patient has one image, this is
split conformal prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from numpy import ndarray as Array
from pydantic import Field

from medvit.config import Config
from medvit.errors import DataError
from medvit.statistics.clusters import Clusters

SetMethod = Literal["lac", "aps", "raps"]
IntervalMethod = Literal["residual", "normalized"]
ConformalMethod = Literal[SetMethod, IntervalMethod]
TASKS = ("classification", "ordinal", "multilabel", "regression", "slide")
"""Tasks of models, or kinds of models, whose predictions can have sets or intervals."""
PENALTY = 0.01
"""Penalty of raps for each class beyond the first ones."""
NUM_FREE = 1
"""Number of the most probable classes for which raps has no penalty."""
ROUNDING = 1e-9
"""Error of a sum of weights that is due to rounding."""
SMALLEST_SPREAD = 1e-6
"""Smallest standard deviation that a residual is divided by."""


class Conformal(Config):
    """Limits of conformal scores that a checkpoint stores and that are applied to all of its predictions."""

    method: ConformalMethod
    """Score of a class or number."""
    coverage: float = Field(gt=0.0, lt=1.0)
    """Probability with which a set or interval contains the truth."""
    limits: tuple[float, ...]
    """Largest score of a value in a set, or one for each label."""
    patients: tuple[int, ...]
    """Number of patients that each limit was computed from."""
    images: tuple[int, ...]
    """Number of their images."""

    def sets(self, probabilities: Float[Array, "n l"]) -> Bool[Array, "n l"]:
        """Return which classes are in the prediction set of each image."""
        (limit,) = self.limits
        return class_scores(self.method, probabilities) <= limit

    def label_sets(self, probabilities: Float[Array, "n l"]) -> Bool[Array, "n l 2"]:
        """Return for each label of each image whether its absence and its presence are in the prediction set."""
        pairs = zip(probabilities.T, self.limits, strict=True)
        found = [class_scores(self.method, _two_classes(one)) <= limit for one, limit in pairs]
        return np.stack(found, axis=1)

    def intervals(self, predicted: Float[Array, "n"], spreads: Float[Array, "n"] | None) -> Float[Array, "n 2"]:
        """Return the lower and upper end of the interval of each number; `spreads` are required for `normalized`."""
        (limit,) = self.limits
        half = limit * _scale(self.method, predicted, spreads)
        return np.stack([predicted - half, predicted + half], axis=1)

    def describe(self) -> str:
        """Return method, coverage and limits as text."""
        limits = ", ".join(f"{one:.4g}" for one in self.limits)
        patients = ", ".join(str(one) for one in dict.fromkeys(self.patients))
        return f"{self.method}, coverage {self.coverage:g}, limit {limits}, from {patients} patients"


def fit_sets(
    task: str,
    truth: Num[Array, "n"] | Float[Array, "n l"],
    probabilities: Float[Array, "n l"],
    labels: Sequence[str],
    patients: Sequence[str],
    *,
    method: ConformalMethod,
    coverage: float,
) -> Conformal:
    """Return the limits for prediction sets of classes or, for a multi-label model, of each of the `labels`.

    `truth` contains class indices or, for several labels, 1, 0, or NaN for a missing label.

    Raises:
        DataError: If there are fewer patients than the coverage requires.
    """
    names = np.asarray(patients)
    if task != "multilabel":
        scores = class_scores(method, probabilities)[np.arange(len(truth)), truth.astype(int)]
        return _fitted([(scores, patients)], [""], method, coverage)
    parts = []
    for true, values in zip(truth.T, probabilities.T, strict=True):
        known = np.flatnonzero(~np.isnan(true))
        scores = class_scores(method, _two_classes(values[known]))
        parts.append((scores[np.arange(known.size), true[known].astype(int)], names[known].tolist()))
    return _fitted(parts, labels, method, coverage)


def fit_intervals(
    truth: Float[Array, "n"],
    predicted: Float[Array, "n"],
    spreads: Float[Array, "n"] | None,
    patients: Sequence[str],
    *,
    method: ConformalMethod,
    coverage: float,
) -> Conformal:
    """Return the limit for intervals of numbers; `spreads` are required for `normalized`.

    Raises:
        DataError: If there are fewer patients than the coverage requires.
    """
    scores = np.abs(truth - predicted) / _scale(method, predicted, spreads)
    return _fitted([(scores, patients)], [""], method, coverage)


def patients_needed(coverage: float) -> int:
    """Return the smallest number of patients n with ceil((n + 1) * coverage) <= n, for which a limit is finite."""
    return max(1, math.ceil(coverage / (1.0 - coverage) - ROUNDING))


def conformal_limit(scores: Float[Array, "n"], patients: Sequence[str], coverage: float) -> float:
    """Return the smallest score up to which the weights of the images sum up to the coverage.

    Each of K patients has the weight 1 / (K + 1), which its images share; the rest is that of the new patient. With
    one image of each patient, this is the score of rank ceil((K + 1) * coverage). Infinite if there is no such score.
    """
    clusters = Clusters.of(patients)
    weights = 1.0 / clusters.sums(np.ones(len(scores)))[clusters.member]
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(weights[order]) >= (clusters.total + 1) * coverage - ROUNDING
    return float(scores[order][int(np.argmax(reached))]) if reached.any() else math.inf


def class_scores(method: ConformalMethod, probabilities: Float[Array, "n l"]) -> Float[Array, "n l"]:
    """Return the score of each class of each image: the lower, the better the class fits."""
    exact = probabilities.astype(np.float64)
    if method == "lac":
        return 1.0 - exact
    order = np.argsort(-exact, axis=1, kind="stable")
    ranks = _inverse(order)
    summed = np.take_along_axis(np.cumsum(np.take_along_axis(exact, order, axis=1), axis=1), ranks, axis=1)
    return summed if method == "aps" else summed + PENALTY * np.maximum(0, ranks + 1 - NUM_FREE)


def _fitted(
    parts: Sequence[tuple[Float[Array, "n"], Sequence[str]]],
    labels: Sequence[str],
    method: ConformalMethod,
    coverage: float,
) -> Conformal:
    numbers = [len(set(patients)) for _, patients in parts]
    needed = patients_needed(coverage)
    for label, number in zip(labels, numbers, strict=True):
        if number < needed:
            of = f" with the label {label}" if label else ""
            raise DataError(
                f"conformal prediction with coverage={coverage:g} needs at least {needed} calibration patients{of}; "
                f"found {number}: give more of them, or a lower coverage"
            )
    return Conformal(
        method=method,
        coverage=coverage,
        limits=tuple(conformal_limit(scores, patients, coverage) for scores, patients in parts),
        patients=tuple(numbers),
        images=tuple(len(scores) for scores, _ in parts),
    )


def _two_classes(probabilities: Float[Array, "n"]) -> Float[Array, "n 2"]:
    exact = probabilities.astype(np.float64)
    return np.stack([1.0 - exact, exact], axis=1)


def _scale(
    method: ConformalMethod, predicted: Float[Array, "n"], spreads: Float[Array, "n"] | None
) -> Float[Array, "n"]:
    if method == "residual":
        return np.ones(len(predicted))
    assert spreads is not None, "normalized residuals need the spread of an ensemble"
    return np.maximum(spreads, SMALLEST_SPREAD)


def _inverse(order: Int[Array, "n l"]) -> Int[Array, "n l"]:
    return np.argsort(order, axis=1, kind="stable")
