"""Classifiers of the baselines: the most frequent class, and logistic regression on features."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.metrics.auroc import mean_auroc

STRENGTHS = tuple(10.0**power for power in range(-4, 4))
"""Inverse strengths of the L2 penalty to choose from, `C` of scikit-learn."""
MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class FittedRegression:
    """Logistic regression on centered and scaled features, with balanced class weights.

    `mean` is that of the training images. `strength` is the inverse strength of the L2 penalty.
    """

    mean: Float[Array, "f"]
    scale: Float[Array, "f"]
    weights: Float[Array, "l f"]
    offsets: Float[Array, "l"]
    strength: float

    def __call__(self, features: Float[Array, "n f"]) -> Float[Array, "n l"]:
        """Return the probability of each class."""
        logits = ((features - self.mean) / self.scale) @ self.weights.T + self.offsets
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def majority(truth: Int[Array, "n"], num_classes: int, number: int) -> Float[Array, "m l"]:
    """Return the class frequencies of the training images as the probabilities of `number` images."""
    shares = np.bincount(truth, minlength=num_classes) / len(truth)
    return np.tile(shares, (number, 1))


def scale_of_each(features: Float[Array, "n f"]) -> Float[Array, "f"]:
    """Return the standard deviation of each feature; 1 for a constant feature."""
    deviation = features.std(axis=0)
    constant = deviation <= 1e-12 * np.maximum(np.abs(features.mean(axis=0)), 1.0)
    return np.where(constant, 1.0, deviation)


def scale_of_all(features: Float[Array, "n f"]) -> Float[Array, "f"]:
    """Return one standard deviation for all features, so that constant pixels do not become noise."""
    return np.full(features.shape[1], features.std() or 1.0)


def chosen_regression(
    features: Float[Array, "n f"],
    truth: Int[Array, "n"],
    others: Float[Array, "m f"],
    others_truth: Int[Array, "m"],
    num_classes: int,
    scale: Float[Array, "f"],
) -> FittedRegression:
    """Return the regression on training images whose penalty gives the highest AUROC on other, validation images.

    Of equal ones, the stronger penalty is used. If the AUROC is undefined, the penalty is that of C = 1.
    """
    found = [fitted(features, truth, num_classes, scale, strength) for strength in STRENGTHS]
    scores = [mean_auroc(others_truth, one(others)) if len(others) else float("nan") for one in found]
    if np.isnan(scores).all():
        return found[STRENGTHS.index(1.0)]
    return found[int(np.nanargmax(scores))]


def fitted(
    features: Float[Array, "n f"],
    truth: Int[Array, "n"],
    num_classes: int,
    scale: Float[Array, "f"],
    strength: float,
) -> FittedRegression:
    """Return a regression with a given penalty; a class without a training image has the probability 0."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean = features.mean(axis=0)
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of nearly unpenalized fits, which are seldom chosen
        model.fit((features - mean) / scale, truth)
    weights = np.zeros((num_classes, features.shape[1]))
    offsets = np.full(num_classes, -np.inf)
    if len(model.classes_) == 2:  # one row: the log odds of the second class
        weights[model.classes_[1]], offsets[model.classes_] = model.coef_[0], (0.0, model.intercept_[0])
    else:
        weights[model.classes_], offsets[model.classes_] = model.coef_, model.intercept_
    return FittedRegression(mean, scale, weights, offsets, strength)
