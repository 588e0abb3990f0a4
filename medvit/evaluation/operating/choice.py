"""Choice of a threshold for a wished sensitivity, specificity or positive predictive value."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.errors import DataError
from medvit.evaluation.operating.cases import Cases
from medvit.evaluation.operating_options import Goal

MIN_PATIENTS = 10
"""Minimum number of positive, and of negative, validation patients for choosing a threshold."""
ROUNDING = 1e-9
"""Tolerance for rates that equal the wished value except for rounding."""


def choose_threshold(cases: Cases, goal: Goal, wished: float, prevalence: float) -> float:
    """Return the threshold that reaches the wished value and, among those that do, has the best other rates.

    For a sensitivity this is the highest threshold, else the lowest. It is halfway between two scores, so that
    rounding errors of another device do not change the calls.

    Raises:
        DataError: If there are too few patients, or no threshold reaches the value.
    """
    _require_patients(cases, goal, wished)
    thresholds = possible_thresholds(cases)
    sensitivity, specificity = rates_at(cases, thresholds)
    if goal == "sensitivity":
        return float(thresholds[sensitivity >= wished - ROUNDING].max())
    reached = specificity if goal == "specificity" else predictive_value(sensitivity, specificity, prevalence)
    fitting = thresholds[reached >= wished - ROUNDING]
    if not fitting.size:
        raise DataError(
            f"no threshold has a {goal} of {wished:g} in the val split; the largest {goal} of any threshold is "
            f"{np.nanmax(reached):.3f}"
        )
    return float(fitting.min())


def needed_patients(wished: float) -> int:
    """Return the number of patients from which one error in all of them is compatible with the wished rate.

    With fewer patients, only a threshold without any error has this rate, which says little about other patients.
    """
    return max(MIN_PATIENTS, math.ceil(1.0 / (1.0 - wished) - ROUNDING))


def possible_thresholds(cases: Cases) -> Float[Array, "m"]:
    """Return all thresholds that differ in their calls, in ascending order; the first one calls every case positive."""
    scores = np.unique(cases.scores)
    return (np.append(0.0, scores[:-1]) + scores) / 2.0


def rates_at(cases: Cases, thresholds: Float[Array, "m"]) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """Return sensitivity and specificity at each threshold; NaN without positive or negative cases."""
    positive, negative = (np.sort(cases.scores[cases.is_positive == of]) for of in (True, False))
    with np.errstate(invalid="ignore"):
        missed = np.searchsorted(positive, thresholds, side="left") / np.float64(len(positive))
        rejected = np.searchsorted(negative, thresholds, side="left") / np.float64(len(negative))
    return 1.0 - missed, rejected


def predictive_value(
    sensitivity: Float[Array, "m"], specificity: Float[Array, "m"], prevalence: float
) -> Float[Array, "m"]:
    """Return the positive predictive value at a prevalence (Bayes' theorem)."""
    found, alarms = prevalence * sensitivity, (1.0 - prevalence) * (1.0 - specificity)
    total = found + alarms
    return np.divide(found, total, out=np.full_like(total, np.nan), where=total > 0.0)


def _require_patients(cases: Cases, goal: Goal, wished: float) -> None:
    """Check that the validation split has enough patients of each kind for a goal."""
    needed = {
        "sensitivity": (needed_patients(wished), MIN_PATIENTS),
        "specificity": (MIN_PATIENTS, needed_patients(wished)),
        "ppv": (MIN_PATIENTS, needed_patients(wished)),
    }[goal]
    for is_positive, least in zip((True, False), needed, strict=True):
        found = cases.num_patients(positive=is_positive)
        if found < least:
            kind = "positive" if is_positive else "negative"
            raise DataError(
                f"{goal} {wished:g} needs at least {least} {kind} patients in the val split, which has {found}; "
                "enlarge the val split, or wish for less"
            )
