"""Paired effects over draws of labeled patients and over test patients: crossed bootstrap.

Draws and patients are both samples: other labels and other patients would give other scores. Both are therefore
resampled at once (Owen, Annals of Applied Statistics 2007), and every resample takes the same patients in all draws.

Draws that share pretrained weights are not independent. They form a cluster: a resample first draws pretrainings with
replacement, then draws of labels within each drawn pretraining. With a single pretraining, only its draws are
resampled, and the interval does not include the variation between pretrainings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.curves.scores import ImageScores

CHUNK = 100_000
"""Number of image weights that are computed at once. They fit into the cache of a processor, which is 3 times as fast
(measured).
"""
DRAW_STREAM = 1
"""Salt that makes the resamples of draws of labels independent of the resamples of patients."""

RunT = TypeVar("RunT")


@dataclass(frozen=True)
class Effect:
    """Mean paired difference with its 95 % interval, and the two-sided p-value of the hypothesis of no difference."""

    mean: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Resampled:
    """Metric of a run: `value` over all test patients, and `drawn` for each resample of test patients."""

    value: float
    drawn: Float[Array, "r"]


def resample_patients(scores: Mapping[RunT, ImageScores], *, resamples: int, seed: int = 0) -> dict[RunT, Resampled]:
    """Return the metric of each run in resamples of the test patients, which are the same in all runs.

    Raises:
        ValueError: If the runs were scored on different numbers of patients.
    """
    sizes = {int(one.patient.max()) + 1 for one in scores.values()}
    if len(sizes) > 1:
        raise ValueError(f"the runs were scored on different numbers of patients ({sorted(sizes)}); expected the same")
    drawn: dict[RunT, list[Float[Array, "c"]]] = {key: [] for key in scores}
    whole = {key: float(one.metric(np.ones((1, max(sizes))))[0]) for key, one in scores.items()}
    num_images = max((len(one.patient) for one in scores.values()), default=1)
    size = max(1, CHUNK // num_images)
    for weights in _patient_weights(max(sizes), resamples, size, seed) if scores else ():
        for key, one in scores.items():
            drawn[key].append(one.metric(weights))
    return {key: Resampled(whole[key], np.concatenate(drawn[key])) for key in scores}


def mean_over_draws(one: Sequence[Resampled], clusters: Sequence[int], *, seed: int = 0) -> Effect:
    """Return the metric averaged over draws of labels, with its 95 % interval.

    The p-value of the result is meaningless.
    """
    return _effect(np.array([run.value for run in one]), np.stack([run.drawn for run in one]), clusters, seed)


def paired_effect(
    one: Sequence[Resampled], other: Sequence[Resampled], clusters: Sequence[int], *, seed: int = 0
) -> Effect:
    """Return the mean difference between the metrics of two methods, `one` minus `other`.

    Draw r of `one` is paired with draw r of `other`. `clusters` has the index of the pretraining of each draw; draws
    without a common pretraining have different indices. Resamples in which the metric is undefined are dropped.

    Raises:
        ValueError: If the methods have different numbers of draws.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} draws are compared with {len(other)}; expected equal numbers")
    values = np.array([first.value - second.value for first, second in zip(one, other, strict=True)])
    drawn = np.stack([first.drawn - second.drawn for first, second in zip(one, other, strict=True)])
    return _effect(values, drawn, clusters, seed)


def draw_weights(clusters: Sequence[int], resamples: int, *, seed: int) -> Float[Array, "r d"]:
    """Return the weights of the draws of labels in each bootstrap resample; they sum to 1.

    A resample draws clusters with replacement, and within each drawn cluster, draws of labels with replacement. A
    cluster that is drawn twice has twice as many draws.
    """
    generator = np.random.default_rng([seed, DRAW_STREAM])
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    num_clusters = int(member.max()) + 1
    chosen = generator.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=resamples)
    weights = np.zeros((resamples, len(member)))
    for cluster in range(num_clusters):
        draws = np.flatnonzero(member == cluster)
        weights[:, draws] = generator.multinomial(chosen[:, cluster] * len(draws), np.full(len(draws), 1 / len(draws)))
    return weights / weights.sum(axis=1, keepdims=True)


def _effect(values: Float[Array, "d"], drawn: Float[Array, "d r"], clusters: Sequence[int], seed: int) -> Effect:
    found = np.einsum("rd,dr->r", draw_weights(clusters, drawn.shape[1], seed=seed), drawn)
    found = found[~np.isnan(found)]
    mean = float(values.mean())
    if not found.size or np.isnan(mean):
        return Effect(mean, float("nan"), float("nan"), 1.0)
    low, high = np.percentile(found, (2.5, 97.5))
    one_sided = (1 + min((found <= 0).sum(), (found >= 0).sum())) / (found.size + 1)
    return Effect(mean, float(low), float(high), float(min(1.0, 2 * one_sided)))


def _patient_weights(num_patients: int, resamples: int, size: int, seed: int) -> Iterator[Float[Array, "c p"]]:
    """Yield the number of times that each patient is in a resample, for `size` resamples at a time."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, size):
        number = min(size, resamples - start)
        drawn = generator.integers(0, num_patients, (number, num_patients))
        places = (drawn + num_patients * np.arange(number)[:, None]).ravel()
        yield np.bincount(places, minlength=number * num_patients).reshape(number, num_patients).astype(np.float64)
