"""Models of the baselines: the most frequent class, and logistic and ridge regression on features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.metrics.auroc import mean_auroc

STRENGTHS = tuple(10.0**power for power in range(-4, 4))
"""Inverse strengths of the L2 penalty to choose from, `C` of scikit-learn."""
PENALTIES = tuple(10.0**power for power in range(-3, 7))
"""Strengths of the L2 penalty of a ridge regression to choose from, `alpha` of scikit-learn."""
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


@dataclass(frozen=True)
class FittedRidge:
    """Ridge regression of a number on centered and scaled features; `penalty` is the strength of the L2 penalty."""

    mean: Float[Array, "f"]
    scale: Float[Array, "f"]
    weights: Float[Array, "f"]
    offset: float
    penalty: float

    def __call__(self, features: Float[Array, "n f"]) -> Float[Array, "n"]:
        """Return the predicted number of each image."""
        return np.asarray(((features - self.mean) / self.scale) @ self.weights + self.offset)


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


def chosen_ridge(
    features: Float[Array, "n f"],
    truth: Float[Array, "n"],
    others: Float[Array, "m f"],
    others_truth: Float[Array, "m"],
    scale: Float[Array, "f"],
) -> FittedRidge:
    """Return the ridge regression on training images with the lowest squared error on other, validation images.

    Of equal ones, the stronger penalty is used. Without validation images, the error is that of
    leave-one-out cross-validation.
    """
    if not len(others):
        return fitted_ridge(features, truth, scale, PENALTIES)
    found = [fitted_ridge(features, truth, scale, [penalty]) for penalty in reversed(PENALTIES)]
    return min(found, key=lambda one: float(np.mean((one(others) - others_truth) ** 2)))


def fitted_ridge(
    features: Float[Array, "n f"], truth: Float[Array, "n"], scale: Float[Array, "f"], penalties: Sequence[float]
) -> FittedRidge:
    """Return a ridge regression with one penalty, or the one of several with the lowest leave-one-out error."""
    from sklearn.linear_model import Ridge, RidgeCV

    mean = features.mean(axis=0, dtype=np.float64)
    scaled = (features - mean) / scale  # in float64: there are often more pixels than images
    if len(penalties) > 1:
        several = RidgeCV(alphas=penalties).fit(scaled, truth)
        return FittedRidge(mean, scale, several.coef_, float(several.intercept_), float(several.alpha_))
    model = Ridge(alpha=penalties[0]).fit(scaled, truth)
    return FittedRidge(mean, scale, model.coef_, float(model.intercept_), penalties[0])
