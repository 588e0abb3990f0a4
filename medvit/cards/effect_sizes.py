"""Differences between two samples of a variable: effect sizes, with bootstrap intervals over patients.

For numbers, the effect size is the standardized mean difference (Cohen, "Statistical Power Analysis for the Behavioral
Sciences", 1988), with the mean of both variances (Austin, Statistics in Medicine 2009). In addition, there are the
Kolmogorov-Smirnov distance of the two distributions, and their Wasserstein-1 distance in the unit of the variable. For
names, the effect size is Cramer's V with the bias correction of Bergsma (Journal of the Korean Statistical Society
2013).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)
MAX_WEIGHTS = 2**24
"""Maximum number of bootstrap weights (patients times resamples) in memory at once."""

SIZES = ("none", "small", "medium", "large")
BOUNDS = {"numbers": (0.2, 0.5, 0.8), "names": (0.1, 0.3, 0.5)}
"""Bounds of small, medium and large effects, for a difference of means and for Cramer's V of two groups (Cohen 1988).
"""


@dataclass(frozen=True)
class Observed:
    """Values of a variable, and the patient of each value."""

    values: Sequence[float] | Sequence[str]
    patients: Sequence[Hashable]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class EffectSize:
    """Effect size of a variable between the samples `a` and `b`.

    `effect` is the standardized mean difference (b - a) for numbers, and Cramer's V for names; `low` and `high` bound
    its 95 % interval. These three are non-finite if undefined, as for numbers that are constant within both samples.
    `ks` is a distance between the distributions in [0, 1]: Kolmogorov-Smirnov for numbers, total variation for names.
    """

    kind: Literal["numbers", "names"]
    effect: float
    low: float
    high: float
    ks: float = float("nan")
    wasserstein: float = float("nan")

    @property
    def size(self) -> str:
        """Size of the effect in words: none, small, medium or large.

        It depends on `effect`, or on the distance `ks` if `effect` is non-finite. If two samples of names have no name
        in common, the size is large, even if V is nearly 0 because of the bias correction for few values.
        """
        if self.kind == "names" and self.ks > 1.0 - 1e-9:
            return SIZES[-1]
        strength = abs(self.effect) if np.isfinite(self.effect) else self.ks
        return SIZES[int(np.searchsorted(BOUNDS[self.kind], strength, side="right"))]


def numeric_effect_size(a: Observed, b: Observed, seed: int = 0) -> EffectSize:
    """Return the effect size of a numeric variable; both samples must be non-empty."""
    from scipy.stats import ks_2samp, wasserstein_distance

    one, other = (np.asarray(part.values, dtype=np.float64) for part in (a, b))
    rng = np.random.default_rng(seed)
    sums = [_sums(np.stack([np.ones_like(v), v, v**2], axis=1), p.patients) for v, p in ((one, a), (other, b))]
    effect = _mean_difference(*(part.sum(axis=0, keepdims=True) for part in sums))
    resampled = _mean_difference(*(_resampled(part, rng) for part in sums))
    low, high = _interval(resampled)
    distance = float(wasserstein_distance(one, other))
    return EffectSize("numbers", float(effect[0]), low, high, float(ks_2samp(one, other).statistic), distance)


def categorical_effect_size(a: Observed, b: Observed, seed: int = 0) -> EffectSize:
    """Return the effect size of a nominal variable; both samples must be non-empty."""
    names = {name: number for number, name in enumerate(sorted({*map(str, a.values), *map(str, b.values)}))}
    rng = np.random.default_rng(seed)
    sums = [_sums(np.eye(len(names))[[names[str(value)] for value in part.values]], part.patients) for part in (a, b)]
    effect = _cramers_v(*(part.sum(axis=0, keepdims=True) for part in sums))
    low, high = _interval(_cramers_v(*(_resampled(part, rng) for part in sums)))
    shares = [part.sum(axis=0) / part.sum() for part in sums]
    return EffectSize("names", float(effect[0]), low, high, float(np.abs(shares[0] - shares[1]).sum() / 2))


def _sums(terms: Float[Array, "n t"], patients: Sequence[Hashable]) -> Float[Array, "p t"]:
    """Return the sums of terms over the values of each patient; `patients` has the patient of each value."""
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(patient, len(numbers)) for patient in patients], dtype=np.int64)
    sums = np.zeros((len(numbers), terms.shape[1]))
    np.add.at(sums, index, terms)
    return sums


def _resampled(sums: Float[Array, "p t"], rng: np.random.Generator) -> Float[Array, "r t"]:
    """Return the sums of terms over bootstrap samples of the patients, drawn with replacement."""
    num_patients = len(sums)
    step = max(1, MAX_WEIGHTS // num_patients)
    parts = []
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        parts.append(_counts(num_patients, size, rng) @ sums)
    return np.concatenate(parts)


def _counts(num_patients: int, size: int, rng: np.random.Generator) -> Int[Array, "r p"]:
    return rng.multinomial(num_patients, np.full(num_patients, 1.0 / num_patients), size=size)


def _mean_difference(a: Float[Array, "r 3"], b: Float[Array, "r 3"]) -> Float[Array, "r"]:
    (mean_a, variance_a), (mean_b, variance_b) = (_moments(part) for part in (a, b))
    deviation = np.sqrt((variance_a + variance_b) / 2)
    # A spread below rounding error counts as zero: it cannot scale a difference.
    scale = np.maximum(np.abs(mean_a), np.abs(mean_b))
    varies = deviation > 1e-6 * scale
    difference = np.where(np.abs(mean_b - mean_a) > 1e-9 * scale, mean_b - mean_a, 0.0)
    undefined = np.where(difference == 0.0, 0.0, np.nan)
    return np.where(varies, difference / np.where(varies, deviation, 1.0), undefined)


def _moments(sums: Float[Array, "r 3"]) -> tuple[Float[Array, "r"], Float[Array, "r"]]:
    number, total, squares = sums.T
    mean = total / number
    return mean, np.maximum(squares / number - mean**2, 0.0) * number / np.maximum(number - 1, 1)


def _cramers_v(a: Float[Array, "r l"], b: Float[Array, "r l"]) -> Float[Array, "r"]:
    table = np.stack([a, b], axis=1)
    number = table.sum(axis=(1, 2))
    expected = table.sum(axis=2, keepdims=True) * table.sum(axis=1, keepdims=True) / number[:, None, None]
    terms = np.divide((table - expected) ** 2, expected, out=np.zeros_like(table), where=expected > 0)
    num_names = (table.sum(axis=1) > 0).sum(axis=1)
    rest = np.maximum(number - 1, 1)
    phi = np.maximum(0.0, terms.sum(axis=(1, 2)) / number - (num_names - 1) / rest)
    smallest = np.minimum(2 - 1 / rest, num_names - (num_names - 1) ** 2 / rest) - 1
    return np.sqrt(np.divide(phi, smallest, out=np.zeros_like(phi), where=smallest > 0))


def _interval(values: Float[Array, "r"]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return float("nan"), float("nan")
    low, high = np.percentile(finite, INTERVAL)
    return float(low), float(high)
