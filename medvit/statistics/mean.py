"""Means of a few patients: bootstrap-t intervals, which keep their coverage for skewed values such as Dice.

A resample gives the difference of its mean from the mean of the sample, in standard errors of the resample. Quantiles
of these take the place of those of Student's t (Efron and Tibshirani, An Introduction to the Bootstrap 1993, section
12.5). Measured for 7 patients with values of Beta(2, 0.3): 94 % of the intervals contain the true mean, of the
percentile intervals 80 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.statistics import FEW_PATIENTS, UNDEFINED, Estimate
from medvit.statistics.bootstrap import AGREEMENT, FEW, MIN_PATIENTS, OUTER, TOLERANCE
from medvit.statistics.clusters import Clusters, inflation

BOOTSTRAP_T, CLOPPER_PEARSON, MEAN_OF_CLASSES = "bootstrap-t", "Clopper-Pearson", "mean of classes"


def few_mean(
    values: Float[Array, "n"],
    patients: Sequence[str],
    bounds: tuple[float, float],
    *,
    resamples: int,
    seed: int,
) -> Estimate | None:
    """Return the mean of the defined values (not NaN) of images with its bootstrap-t interval, cut off at `bounds`.

    If all values are at the same finite bound, the interval is exact (`exact_interval`). Otherwise, the result is None
    if there are `FEW_PATIENTS` patients or more with a value.
    """
    defined = np.flatnonzero(~np.isnan(values))
    if not defined.size:
        return UNDEFINED
    clusters = Clusters.of([patients[int(image)] for image in defined])
    if np.isfinite(bounds).all() and np.ptp(values[defined]) == 0.0 and values[defined[0]] in bounds:
        value = float(values[defined[0]])
        return Estimate(value, *exact_interval(value, bounds, clusters.total), CLOPPER_PEARSON)
    if clusters.total >= FEW_PATIENTS:
        return None
    sums, sizes = clusters.sums(values[defined]), clusters.sums(np.ones(defined.size))
    mean, error = (float(one[0]) for one in _means(sums, sizes, np.ones((1, clusters.total))))
    if clusters.total < MIN_PATIENTS:
        return Estimate(mean, float("nan"), float("nan"), FEW)
    if error <= TOLERANCE * max(1.0, abs(mean)):
        return Estimate(mean, float("nan"), float("nan"), AGREEMENT)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(clusters.total, np.full(clusters.total, 1.0 / clusters.total), size=resamples)
    means, errors = _means(sums, sizes, drawn)
    varied = errors > TOLERANCE * max(1.0, abs(mean))
    if not varied.any():
        return Estimate(mean, float("nan"), float("nan"), AGREEMENT)
    low, high = np.quantile((means[varied] - mean) / errors[varied], (OUTER, 1.0 - OUTER))
    ends = np.clip((mean - high * error, mean - low * error), *bounds)
    return Estimate(mean, float(ends[0]), float(ends[1]), BOOTSTRAP_T)


def exact_interval(value: float, bounds: tuple[float, float], num_patients: int) -> tuple[float, float]:
    """Return the interval of a mean if the values of all patients are at the same bound.

    It follows from the exact interval of the proportion of patients at this bound (Clopper and Pearson, Biometrika
    1934), if the values of all others were at the other bound.
    """
    low, high = bounds
    reach = (high - low) * (1.0 - OUTER ** (1.0 / num_patients))
    return (low, low + reach) if value == low else (high - reach, high)


def _means(
    sums: Float[Array, "p"], sizes: Float[Array, "p"], drawn: Float[Array, "r p"]
) -> tuple[Float[Array, "r"], Float[Array, "r"]]:
    """Return mean and standard error over images, if each patient is drawn as often as `drawn` states.

    The standard error is that of a ratio of sums over patients, by linearization.
    """
    totals = drawn @ sizes
    means = (drawn @ sums) / totals
    squares = np.square(sums - means[:, None] * sizes)
    return means, np.sqrt(inflation(len(sums)) * (drawn * squares).sum(axis=1)) / totals


def mean_of_limits(parts: Sequence[Estimate]) -> Estimate:
    """Return the mean of estimates with the means of their limits as interval.

    It is at least as wide as the interval of the mean, whatever the dependence between the parts, if these have normal
    distributions.
    """
    value, low, high = (float(np.mean([getattr(one, name) for one in parts])) for name in ("value", "low", "high"))
    return Estimate(value, low, high, MEAN_OF_CLASSES)
