"""Metrics at the prevalence of intended use, by resampling of patients.

Patients with and without the condition are drawn separately, with replacement, so that the share of patients with the
condition is the prevalence. A patient is drawn with all images, and has the condition if any case is positive.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.evaluation.operating.cases import Cases
from medvit.evaluation.tasks.classification import classification_metrics
from medvit.statistics import Estimate

PAIR = ("others", "positive")


def metrics_at(cases: Cases, prevalence: float, *, resamples: int, seed: int) -> dict[str, Estimate]:
    """Return the metrics of two classes at a prevalence: mean, 2.5th and 97.5th percentile over the resamples.

    Empty if there are no patients with, or none without the condition.
    """
    probabilities = np.stack([1.0 - cases.scores, cases.scores], axis=1)
    drawn = [
        classification_metrics(cases.is_positive[those].astype(int), probabilities[those], PAIR)
        for those in at_prevalence(cases, prevalence, resamples, seed)
    ]
    return {name: _estimate(np.array([one[name] for one in drawn])) for name in (drawn[0] if drawn else ())}


def at_prevalence(cases: Cases, prevalence: float, resamples: int, seed: int) -> Iterator[Int[Array, "m"]]:
    """Yield the indices of all cases of drawn patients; there are as many draws as there are patients.

    At least one patient with, and one without the condition are drawn.
    """
    names, member = np.unique(np.array(cases.patients), return_inverse=True)
    images = [np.flatnonzero(member == number) for number in range(len(names))]
    has_condition = np.array([cases.is_positive[those].any() for those in images])
    positive, negative = (np.flatnonzero(has_condition == kind) for kind in (True, False))
    if not len(positive) or not len(negative):
        return
    num_positive = int(np.clip(round(prevalence * len(names)), 1, len(names) - 1))
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        ill, well = generator.choice(positive, num_positive), generator.choice(negative, len(names) - num_positive)
        yield np.concatenate([images[number] for number in (*ill, *well)])


def _estimate(drawn: Array) -> Estimate:
    defined = drawn[~np.isnan(drawn)]
    if not defined.size:
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = np.percentile(defined, (2.5, 97.5))
    return Estimate(float(defined.mean()), float(low), float(high))
