"""Survival curves: values between given times, restricted mean and median, and the Kaplan-Meier estimator.

A predicted curve is the probability of being without the event at ascending times; at time 0 it is 1. Between two
times, the hazard is constant, so that the logarithm of the curve is linear. The last hazard also applies after the last
time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from medvit.errors import ConfigError

log = logging.getLogger("medvit")

TINY = 1e-12
"""Lower bound of a probability whose logarithm is taken."""
QUARTERS = (0.25, 0.5, 0.75)
Z = 1.959964
"""Standard normal quantile of a 95 % interval."""


def time_text(time: float) -> str:
    """Return a time as text that `float` reads back."""
    return f"{time:.15g}"


def survival_names(label: str, times: Sequence[float]) -> tuple[str, ...]:
    """Return the names of survival probabilities, such as `days > 365`."""
    return tuple(f"{label} > {time_text(time)}" for time in times)


def survival_times(names: Sequence[str]) -> tuple[float, ...]:
    """Return the times of survival probabilities from their names."""
    return tuple(float(name.rpartition(" > ")[2]) for name in names)


def default_horizons(names: Sequence[str]) -> tuple[float, ...]:
    """Return three of the times of a model, near the quartiles of the times of events in its training."""
    times = survival_times(names)
    return tuple(dict.fromkeys(times[max(0, round(share * len(times)) - 1)] for share in QUARTERS))


def require_horizons(horizons: Sequence[float], kind: str, names: Sequence[str]) -> None:
    """Check the option `horizons`, given the kind of a model and the names of its predictions.

    If the model does not predict survival, there is only a warning that the option is ignored.

    Raises:
        ConfigError: If a horizon is after the last time of the model.
    """
    if kind != "survival":
        if horizons:
            log.warning("horizons is ignored: it is an option of survival, and this is a model of %s", kind)
        return
    last = survival_times(names)[-1]
    if horizons and max(horizons) > last:
        raise ConfigError(
            f"horizons contains {time_text(max(horizons))}; the last event in the training of the model was at "
            f"{time_text(last)}: give times up to this one"
        )


def survival_at(
    times: Sequence[float], probabilities: Float[Array, "n t"], asked: Sequence[float] | Float[Array, "h"]
) -> Float[Array, "n h"]:
    """Return the values of curves at other times."""
    knots, logs, points = np.array([0.0, *times]), _logs(probabilities), np.asarray(asked, dtype=np.float64)
    place = np.clip(np.searchsorted(knots, points) - 1, 0, len(times) - 1)
    share = (points - knots[place]) / (knots[place + 1] - knots[place])
    return np.asarray(np.exp(logs[:, place] * (1.0 - share) + logs[:, place + 1] * share))


def restricted_means(times: Sequence[float], probabilities: Float[Array, "n t"]) -> Float[Array, "n"]:
    """Return the mean time without the event, counted up to the last of the times: the area under each curve."""
    logs = _logs(probabilities)
    drops = logs[:, :-1] - logs[:, 1:]
    heights = np.where(drops > 1e-9, -np.expm1(-drops) / np.maximum(drops, 1e-9), 1.0) * np.exp(logs[:, :-1])
    return np.asarray(heights @ np.diff([0.0, *times]))


def median_time(times: Sequence[float], probabilities: Float[Array, "t"]) -> float | None:
    """Return the time at which a curve falls to 0.5; None if that is after the last of the times."""
    logs, knots = _logs(probabilities[None])[0], np.array([0.0, *times])
    below = np.flatnonzero(logs <= np.log(0.5))
    if not below.size:
        return None
    end = int(below[0])
    share = (logs[end - 1] - np.log(0.5)) / (logs[end - 1] - logs[end])
    return float(knots[end - 1] + share * (knots[end] - knots[end - 1]))


def _logs(probabilities: Float[Array, "n t"]) -> Float[Array, "n t+1"]:
    """Return the logarithms of curves, with 0 for time 0."""
    found = np.log(np.clip(np.asarray(probabilities, dtype=np.float64), TINY, 1.0))
    return np.concatenate([np.zeros((len(found), 1)), found], axis=1)


@dataclass(frozen=True)
class KaplanMeier:
    """Kaplan-Meier estimate of a survival curve (Kaplan and Meier, JASA 1958), a step function.

    `survival` (T,) is the value from each of the `times` until the next. `variance` (T,) is Greenwood's variance of the
    logarithm of this value.
    """

    times: Float[Array, "t"]
    survival: Float[Array, "t"]
    variance: Float[Array, "t"]

    @classmethod
    def of(cls, times: Float[Array, "n"], events: Bool[Array, "n"]) -> Self:
        """Return the estimate; each time is that of the event or, where `events` is False, that of censoring."""
        known, died, censored = _counts(times, events)
        return cls._from_counts(known, died, _at_risk(died + censored))

    @classmethod
    def of_censoring(cls, times: Float[Array, "n"], events: Bool[Array, "n"]) -> Self:
        """Return the estimate of not being censored up to each time; at equal times, events come first."""
        known, died, censored = _counts(times, events)
        return cls._from_counts(known, censored, _at_risk(died + censored) - died)

    @classmethod
    def _from_counts(cls, times: Float[Array, "t"], died: Float[Array, "t"], at_risk: Float[Array, "t"]) -> Self:
        hazards = died / np.maximum(at_risk, 1.0)
        parts = died / np.maximum(at_risk * (at_risk - died), 1.0)
        return cls(times, np.cumprod(1.0 - hazards), np.cumsum(parts))

    def at(self, asked: float | Float[Array, "*h"]) -> Float[Array, "*h"]:
        """Return the value at each time."""
        return np.asarray(np.concatenate([[1.0], self.survival])[np.searchsorted(self.times, asked, side="right")])

    def before(self, asked: float | Float[Array, "*h"]) -> Float[Array, "*h"]:
        """Return the value just before each time."""
        return np.asarray(np.concatenate([[1.0], self.survival])[np.searchsorted(self.times, asked, side="left")])

    def interval(self, asked: float) -> tuple[float, float]:
        """Return the 95 % interval of the value at a time, by Greenwood's formula for log(-log)."""
        value = float(self.at(asked))
        spread = np.concatenate([[0.0], self.variance])[np.searchsorted(self.times, asked, side="right")]
        if not 0.0 < value < 1.0:
            return value, value
        power = np.exp(Z * np.sqrt(spread) / -np.log(value))
        return float(value**power), float(value ** (1.0 / power))


def _counts(
    times: Float[Array, "n"], events: Bool[Array, "n"]
) -> tuple[Float[Array, "t"], Float[Array, "t"], Float[Array, "t"]]:
    """Return the distinct times, and the number of events and of censored persons at each."""
    known, place = np.unique(times, return_inverse=True)
    died = np.bincount(place, weights=events, minlength=len(known))
    return known, died, np.bincount(place, minlength=len(known)) - died


def _at_risk(left: Float[Array, "t"]) -> Float[Array, "t"]:
    """Return the number of persons at risk at each time, from the number who leave at each time."""
    return np.cumsum(left[::-1])[::-1]
