"""Paired effects over draws and test patients: crossed bootstrap, and Holm's correction over several comparisons.

Draws and patients are both samples: other labels and other patients would give other scores. Both are therefore
resampled at once (Owen, Annals of Applied Statistics 2007), and every resample takes the same patients in all draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.curves.scores import ImageScores

CHUNK = 1000
"""Resamples that are computed at once."""


@dataclass(frozen=True)
class Effect:
    """Mean paired difference with its 95 % interval, and the two-sided p-value of no difference."""

    mean: float
    low: float
    high: float
    p: float


def mean_over_draws(one: Sequence[ImageScores], *, resamples: int, seed: int = 0) -> Effect:
    """Return the metric averaged over draws, with its 95 % interval. The p-value of the result is meaningless."""
    return paired_effect(one, None, resamples=resamples, seed=seed)


def paired_effect(
    one: Sequence[ImageScores], other: Sequence[ImageScores] | None, *, resamples: int, seed: int = 0
) -> Effect:
    """Return the mean difference between the metrics of two methods, `one` minus `other`.

    Draw r of `one` is paired with draw r of `other`. If `other` is None, the result is the mean metric of `one`.
    Resamples in which the metric is undefined are dropped.

    Raises:
        ValueError: If the methods have different numbers of draws.
    """
    if other is not None and len(one) != len(other):
        raise ValueError(f"{len(one)} draws are compared with {len(other)}; expected equal numbers")
    num_patients = int(one[0].patient.max()) + 1
    generator = np.random.default_rng(seed)
    whole = np.ones((1, num_patients))
    drawn = []
    for number in _chunks(resamples):
        patients = generator.multinomial(num_patients, np.full(num_patients, 1 / num_patients), size=number)
        draws = generator.multinomial(len(one), np.full(len(one), 1 / len(one)), size=number) / len(one)
        drawn.append((draws.T * _differences(one, other, patients.astype(np.float64))).sum(axis=0))
    found = np.concatenate(drawn)
    found = found[~np.isnan(found)]
    mean = float(_differences(one, other, whole).mean())
    if not found.size:
        return Effect(mean, float("nan"), float("nan"), float("nan"))
    low, high = np.percentile(found, (2.5, 97.5))
    one_sided = (1 + min((found <= 0).sum(), (found >= 0).sum())) / (found.size + 1)
    return Effect(mean, float(low), float(high), float(min(1.0, 2 * one_sided)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for several comparisons (Holm, Scandinavian Journal of Statistics 1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return [float(p) for p in corrected]


def _differences(
    one: Sequence[ImageScores], other: Sequence[ImageScores] | None, weights: Float[Array, "r p"]
) -> Float[Array, "d r"]:
    first = np.stack([scores.metric(weights) for scores in one])
    return first if other is None else first - np.stack([scores.metric(weights) for scores in other])


def _chunks(total: int) -> Iterator[int]:
    for start in range(0, total, CHUNK):
        yield min(CHUNK, total - start)
