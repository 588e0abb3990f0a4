"""Calibration of predicted probabilities: temperature scaling or isotonic regression, fitted after training.

Temperature scaling divides the logits by one number (Guo et al., ICML 2017). It is applied to probabilities p of any
model, since softmax(z / T) is p ** (1 / T), normalized. It changes neither the most probable class nor the order of
images. For an ordinal classification, the logits of exceeding each grade are divided, which leaves the median grade
unchanged; for several labels, each label has its own temperature. Isotonic regression (Zadrozny and Elkan, KDD 2002)
maps the probability of the positive class by an increasing step function with interpolation. It needs many patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Num
from numpy import ndarray as Array

from medvit.config import Config, Positive
from medvit.errors import DataError

CalibrationMethod = Literal["temperature", "isotonic"]
TASKS = ("classification", "ordinal", "multilabel", "slide")
"""Tasks of models, or kinds of models, whose probabilities can be calibrated."""
MIN_PATIENTS = 30
"""Minimum number of patients for a calibration."""
ISOTONIC_PATIENTS = 1000
"""Number of patients from which isotonic regression is used for two classes and for labels. With fewer patients, it
overfits (Niculescu-Mizil and Caruana, ICML 2005).
"""
SMALLEST = 1e-7
"""Smallest probability whose logarithm is used; float32 does not resolve 1 minus a smaller one."""
LOG_TEMPERATURES = (-3.0, 3.0)
"""Range of the natural logarithm of temperatures: from 0.05 to 20."""


class IsotonicCurve(Config):
    """Increasing function of a probability: values `after` at the points `before`, interpolated linearly between."""

    before: tuple[float, ...]
    after: tuple[float, ...]

    def __call__(self, probabilities: Float[Array, "n"]) -> Float[Array, "n"]:
        """Return calibrated probabilities."""
        return np.interp(probabilities, self.before, self.after)


class Calibration(Config):
    """Calibration that a checkpoint stores and that is applied to all of its predictions."""

    method: CalibrationMethod
    """Method of the calibration."""
    temperatures: tuple[Positive, ...] = ()
    """Temperature, or one for each label."""
    curves: tuple[IsotonicCurve, ...] = ()
    """Curve of the second class, or one for each label."""
    patients: int
    """Number of patients that it was fitted on."""

    def apply(self, task: str, probabilities: Float[Array, "n l"]) -> Float[Array, "n l"]:
        """Return the calibrated probabilities of a model of this task."""
        if self.method == "temperature":
            return tempered(task, probabilities, self.temperatures).astype(probabilities.dtype)
        if task == "multilabel":
            columns = [curve(values) for curve, values in zip(self.curves, probabilities.T, strict=True)]
            return np.stack(columns, axis=1).astype(probabilities.dtype)
        second = self.curves[0](probabilities[:, 1])
        return np.stack([1.0 - second, second], axis=1).astype(probabilities.dtype)

    def describe(self) -> str:
        """Return the method and its numbers as text."""
        if self.method == "isotonic":
            return f"isotonic regression on {self.patients} patients"
        return f"temperature {', '.join(f'{one:.3g}' for one in self.temperatures)}, from {self.patients} patients"


def tempered(task: str, probabilities: Float[Array, "n l"], temperatures: Sequence[float]) -> Float[Array, "n l"]:
    """Return probabilities whose logits are divided by a temperature, or by one for each label."""
    if task == "multilabel":
        return _sigmoid(_logit(probabilities) / np.asarray(temperatures))
    (temperature,) = temperatures
    if task == "ordinal":
        reached = np.cumsum(probabilities[:, ::-1].astype(np.float64), axis=1)[:, ::-1][:, 1:]
        exceeding = _sigmoid(_logit(reached) / temperature)
        ones, zeros = np.ones((len(exceeding), 1)), np.zeros((len(exceeding), 1))
        return -np.diff(np.hstack([ones, exceeding, zeros]), axis=1)
    logits = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit_calibration(
    task: str,
    truth: Num[Array, "n"] | Float[Array, "n l"],
    probabilities: Float[Array, "n l"],
    patients: Sequence[str],
    method: CalibrationMethod | None = None,
) -> Calibration:
    """Return the calibration with the smallest negative log likelihood of the truth, which is never worse than none.

    `truth` contains class indices or, for several labels, 1, 0, or NaN for a missing label. Without a method, isotonic
    regression is used for two classes and for labels from `ISOTONIC_PATIENTS` patients on, else temperature scaling.

    Raises:
        DataError: If there are too few patients, or isotonic regression is requested for more than two classes.
    """
    total = len(set(patients))
    if total < MIN_PATIENTS:
        raise DataError(f"a calibration needs at least {MIN_PATIENTS} patients; found {total}")
    is_pair = task == "multilabel" or probabilities.shape[1] == 2
    if method == "isotonic" and (not is_pair or task == "ordinal"):
        raise DataError("isotonic regression is for two classes or several labels; set method=temperature")
    chosen = method or ("isotonic" if is_pair and task != "ordinal" and total >= ISOTONIC_PATIENTS else "temperature")
    pairs = _pairs(task, truth, probabilities)
    if chosen == "isotonic":
        return Calibration(method="isotonic", curves=tuple(_isotonic(*pair) for pair in pairs), patients=total)
    if task == "multilabel":
        found = tuple(_temperature(partial(_pair_loss_at, *pair)) for pair in pairs)
    else:
        found = (_temperature(lambda t: log_loss(task, truth, tempered(task, probabilities, (t,)))),)
    return Calibration(method="temperature", temperatures=found, patients=total)


def log_loss(task: str, truth: Num[Array, "n"] | Float[Array, "n l"], probabilities: Float[Array, "n l"]) -> float:
    """Return the mean negative log likelihood of the truth; for several labels, the mean over known labels."""
    if task == "multilabel":
        pairs = _pairs(task, truth, probabilities)
        return float(np.average([_pair_loss(*pair) for pair in pairs], weights=[len(y) for y, _ in pairs]))
    of_truth = probabilities[np.arange(len(truth)), truth.astype(int)]
    return float(-np.log(np.maximum(of_truth, SMALLEST)).mean())


def _pairs(
    task: str, truth: Num[Array, "n"] | Float[Array, "n l"], probabilities: Float[Array, "n l"]
) -> list[tuple[Bool[Array, "m"], Float[Array, "m"]]]:
    """Return truth and probability of the second class, or of each label on the images with this label."""
    if task != "multilabel":
        return [(truth == 1, probabilities[:, 1])]
    known = ~np.isnan(truth)
    return [(truth[known[:, n], n] == 1, probabilities[known[:, n], n]) for n in range(truth.shape[1])]


def _temperature(loss: Callable[[float], float]) -> float:
    """Return the temperature with the smallest loss; 1 if no other one is better."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda log: loss(float(np.exp(log))), bounds=LOG_TEMPERATURES, method="bounded")
    best = float(np.exp(found.x))
    return best if loss(best) < loss(1.0) else 1.0


def _isotonic(truth: Bool[Array, "n"], probabilities: Float[Array, "n"]) -> IsotonicCurve:
    """Return the increasing function with the smallest squared error; it never becomes 0 or 1."""
    from scipy.optimize import isotonic_regression

    before, member, counts = np.unique(probabilities.astype(np.float64), return_inverse=True, return_counts=True)
    shares = np.bincount(member, weights=truth.astype(np.float64)) / counts
    least = 1.0 / (len(truth) + 2.0)
    after = np.clip(isotonic_regression(shares, weights=counts).x, least, 1.0 - least)
    is_needed = np.ones(len(before), dtype=bool)  # points inside of a step do not change the interpolation
    is_needed[1:-1] = (after[1:-1] != after[:-2]) | (after[1:-1] != after[2:])
    return IsotonicCurve(before=tuple(map(float, before[is_needed])), after=tuple(map(float, after[is_needed])))


def _pair_loss(truth: Bool[Array, "n"], probabilities: Float[Array, "n"]) -> float:
    if not len(truth):
        return 0.0
    of_truth = np.where(truth, probabilities, 1.0 - probabilities)
    return float(-np.log(np.maximum(of_truth, SMALLEST)).mean())


def _pair_loss_at(truth: Bool[Array, "n"], probabilities: Float[Array, "n"], temperature: float) -> float:
    return _pair_loss(truth, _sigmoid(_logit(probabilities) / temperature))


def _logit(probabilities: Float[Array, "*n"]) -> Float[Array, "*n"]:
    inside = np.clip(probabilities.astype(np.float64), SMALLEST, 1.0 - SMALLEST)
    return np.log(inside / (1.0 - inside))


def _sigmoid(logits: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return 1.0 / (1.0 + np.exp(-logits))
