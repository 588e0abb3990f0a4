"""Decision curve: net benefit of acting on a model, compared with acting on all patients and on none.

The net benefit at a threshold probability t is the share of found patients, minus the share of false alarms weighted by
t / (1 - t) (Vickers and Elkin, Medical Decision Making 2006): somebody who acts from t on accepts (1 - t) / t false
alarms for one found patient. At a prevalence p, it is p * sensitivity - (1 - p) * (1 - specificity) * t / (1 - t).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.evaluation.operating.cases import Cases
from medvit.evaluation.operating.choice import rates_at
from medvit.statistics.bootstrap import resampled

THRESHOLDS = np.arange(1, 100) / 100.0


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit at threshold probabilities, with 95 % intervals over patients; net benefit of acting on none is 0."""

    positive: str
    prevalence: float
    thresholds: Float[Array, "m"]
    model: Float[Array, "m"]
    low: Float[Array, "m"]
    high: Float[Array, "m"]
    everyone: Float[Array, "m"]
    """Net benefit of acting on all patients."""

    def useful(self) -> tuple[float, float] | None:
        """Return the ends of the longest range in which the interval of the model is above acting on all and none."""
        is_above = self.low > np.maximum(self.everyone, 0.0)
        best: tuple[int, int] | None = None
        start = None
        for index, above in enumerate([*is_above, False]):
            if above and start is None:
                start = index
            if not above and start is not None:
                best = max(best or (start, start), (start, index - 1), key=lambda ends: ends[1] - ends[0])
                start = None
        return None if best is None else (float(self.thresholds[best[0]]), float(self.thresholds[best[1]]))


def decision_curve(cases: Cases, positive: str, prevalence: float, *, resamples: int, seed: int) -> DecisionCurve:
    """Return the decision curve of cases at a prevalence; resamples without positive or negative cases do not count."""
    drawn = []
    for those in resampled(cases.patients, resamples, seed):
        sample = Cases(cases.is_positive[those], cases.scores[those], ())
        drawn.append(net_benefit(*rates_at(sample, THRESHOLDS), THRESHOLDS, prevalence))
    each = np.array(drawn)
    each = each[~np.isnan(each).any(axis=1)]
    low, high = np.percentile(each, (2.5, 97.5), axis=0) if len(each) else np.full((2, len(THRESHOLDS)), np.nan)
    model = net_benefit(*rates_at(cases, THRESHOLDS), THRESHOLDS, prevalence)
    everyone = net_benefit(np.ones(len(THRESHOLDS)), np.zeros(len(THRESHOLDS)), THRESHOLDS, prevalence)
    return DecisionCurve(positive, prevalence, THRESHOLDS, model, low, high, everyone)


def net_benefit(
    sensitivity: Float[Array, "m"], specificity: Float[Array, "m"], thresholds: Float[Array, "m"], prevalence: float
) -> Float[Array, "m"]:
    """Return the net benefit of calls with these rates, at threshold probabilities and a prevalence."""
    odds = thresholds / (1.0 - thresholds)
    return prevalence * sensitivity - (1.0 - prevalence) * (1.0 - specificity) * odds
