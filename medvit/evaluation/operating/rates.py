"""Rates of calls at a threshold, with 95 % intervals: sensitivity, specificity, predictive values, likelihood ratios.

If each patient has one case, sensitivity and specificity are drawn from their posterior distributions under the
Jeffreys prior, whose quantiles are intervals with a coverage close to 95 % for any number of cases, also if all calls
are right (Brown, Cai and DasGupta, Statistical Science 2001). If patients have several cases, both rates are drawn
together by bootstrap over patients; a rate that is the same in every resample is drawn from its posterior for as many
cases as there are patients. Intervals of all derived numbers are quantiles over these draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.evaluation.operating.cases import Cases
from medvit.evaluation.operating.choice import predictive_value
from medvit.statistics import Estimate
from medvit.statistics.bootstrap import resampled

NUM_DRAWS = 20_000
"""Number of draws of sensitivity and specificity: their quantiles vary by less than 0.002."""
PER_THOUSAND = 1000.0

Draws = tuple[Float[Array, "k"], Float[Array, "k"]]
"""Draws of sensitivity and specificity."""


@dataclass(frozen=True)
class Rates:
    """Counts of calls, and rates with intervals at a prevalence."""

    num_found: int
    """Positive cases that are called positive."""
    num_missed: int
    num_false_alarms: int
    num_rejected: int
    """Negative cases that are called negative."""
    prevalence: float
    rates: Mapping[str, Estimate]
    """Sensitivity, specificity, ppv, npv, and positive and negative likelihood ratio (lr_positive, lr_negative)."""
    per_thousand: Mapping[str, Estimate]
    """Numbers among 1,000 cases at the prevalence: found, missed, false_alarms."""

    @property
    def num_positive(self) -> int:
        """Number of positive cases."""
        return self.num_found + self.num_missed

    @property
    def num_negative(self) -> int:
        """Number of negative cases."""
        return self.num_false_alarms + self.num_rejected


def rates_of(cases: Cases, threshold: float, prevalence: float, *, resamples: int, seed: int) -> Rates:
    """Return the rates of the calls at a threshold, with 95 % intervals over patients."""
    called = cases.scores >= threshold
    counts = [int((called[cases.is_positive == truth] == call).sum()) for truth, call in CELLS]
    found, missed, alarms, rejected = counts
    sensitivity, specificity = _rate(found, found + missed), _rate(rejected, alarms + rejected)
    drawn = _draws(cases, called, counts, resamples=resamples, seed=seed)
    whole = derived(np.array([sensitivity]), np.array([specificity]), prevalence)
    each = derived(*drawn, prevalence)
    rates = {name: _estimate(float(whole[name][0]), each[name]) for name in whole}
    rates["sensitivity"] = _bounded(rates["sensitivity"], found, found + missed)
    rates["specificity"] = _bounded(rates["specificity"], rejected, alarms + rejected)
    thousand = {name: rates.pop(name) for name in ("found", "missed", "false_alarms")}
    return Rates(found, missed, alarms, rejected, prevalence, rates, thousand)


CELLS = ((True, True), (True, False), (False, True), (False, False))
"""Truth and call of the cells of a confusion matrix: found, missed, false alarms, rejected."""


def derived(
    sensitivity: Float[Array, "k"], specificity: Float[Array, "k"], prevalence: float
) -> dict[str, Float[Array, "k"]]:
    """Return rates, likelihood ratios and counts per 1,000 cases from sensitivity and specificity at a prevalence."""
    ill, well = prevalence, 1.0 - prevalence
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": predictive_value(sensitivity, specificity, prevalence),
            "npv": well * specificity / (well * specificity + ill * (1.0 - sensitivity)),
            "lr_positive": sensitivity / (1.0 - specificity),
            "lr_negative": (1.0 - sensitivity) / specificity,
            "found": PER_THOUSAND * ill * sensitivity,
            "missed": PER_THOUSAND * ill * (1.0 - sensitivity),
            "false_alarms": PER_THOUSAND * well * (1.0 - specificity),
        }


def _draws(cases: Cases, called: Array, counts: list[int], *, resamples: int, seed: int) -> Draws:
    found, missed, alarms, rejected = counts
    generator = np.random.default_rng(seed)
    if len(set(cases.patients)) == len(cases):
        return _posterior(generator, found, found + missed), _posterior(generator, rejected, alarms + rejected)
    drawn = [_both(cases.is_positive[those], called[those]) for those in resampled(cases.patients, resamples, seed)]
    each = np.array(drawn)
    both = each[~np.isnan(each).any(axis=1)]
    if not len(both):
        return np.full(1, np.nan), np.full(1, np.nan)
    columns = []
    for column, rate, positive in zip(both.T, both.mean(axis=0), (True, False), strict=True):
        number = cases.num_patients(positive=positive)
        is_constant = np.ptp(column) == 0.0
        columns.append(_posterior(generator, round(rate * number), number) if is_constant else column)
    return np.resize(columns[0], NUM_DRAWS), np.resize(columns[1], NUM_DRAWS)


def _both(is_positive: Array, called: Array) -> tuple[float, float]:
    return _rate(int(called[is_positive].sum()), int(is_positive.sum())), _rate(
        int((~called[~is_positive]).sum()), int((~is_positive).sum())
    )


def _posterior(generator: np.random.Generator, right: int, total: int) -> Float[Array, "k"]:
    """Return draws of a rate under the Jeffreys prior; empty without cases."""
    return generator.beta(right + 0.5, total - right + 0.5, NUM_DRAWS) if total else np.full(NUM_DRAWS, np.nan)


def _rate(part: int, total: int) -> float:
    return part / total if total else float("nan")


def _bounded(estimate: Estimate, right: int, total: int) -> Estimate:
    """Return the estimate of a rate whose interval includes 0 or 1 if the rate is 0 or 1."""
    low = 0.0 if total and right == 0 else estimate.low
    return Estimate(estimate.value, low, 1.0 if total and right == total else estimate.high)


def _estimate(value: float, drawn: Float[Array, "k"]) -> Estimate:
    """Return a number with the 2.5th and 97.5th percentiles of its draws, which may be infinite."""
    defined = drawn[~np.isnan(drawn)]
    if np.isnan(value) or not defined.size:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(defined, (0.025, 0.975), method="inverted_cdf")
    return Estimate(value, min(float(low), value), max(float(high), value))
