"""Proportions of images, such as sensitivity: Wilson's interval, also for several images of a patient; McNemar's test.

Wilson's interval (Journal of the American Statistical Association 1927) covers close to 95 % for small numbers, and
does not collapse at 0 or 1 (Agresti and Coull, The American Statistician 1998). If patients have several images that
count, the number of images is replaced by an effective number: that of independent images with the same variance. It is
reduced further for few patients by a quantile of Student's t, because the variance is then uncertain (Korn and
Graubard, Survey Methodology 1998; with Wilson's interval: Dean and Pagano, Journal of Survey Statistics and Methodology
2015). If all images agree, the effective number is the number of patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Num
from numpy import ndarray as Array

from medvit.statistics import UNDEFINED, Estimate, PairedTest, Z
from medvit.statistics.clusters import Clusters, inflation

WILSON, CLUSTERED_WILSON = "Wilson", "Wilson, effective number"
MCNEMAR, CLUSTERED_MCNEMAR = "McNemar", "McNemar, clustered"


@dataclass(frozen=True)
class Proportion:
    """Images (N,) that count, and images that are right; their proportion among those that count is the metric."""

    counts: Bool[Array, "n"]
    is_right: Bool[Array, "n"]
    patients: Sequence[str]
    """Patient of each image."""

    @classmethod
    def of_all(cls, is_right: Bool[Array, "n"], patients: Sequence[str]) -> Proportion:
        """Return the proportion of right images among all of them."""
        return cls(np.ones(len(is_right), dtype=bool), is_right, patients)

    def estimate(self) -> Estimate:
        """Return the proportion with Wilson's interval; not defined if no image counts."""
        right, clusters = self.is_right[self.counts], self._clusters
        total = len(right)
        if not total:
            return UNDEFINED
        value = float(right.mean())
        if clusters.total == total:
            return Estimate(value, *wilson(value, total), WILSON)
        return Estimate(value, *wilson(value, effective_number(right, clusters)), CLUSTERED_WILSON)

    def compared(self, other: Proportion) -> PairedTest | None:
        """Return McNemar's exact test, or its clustered form (Obuchowski, Statistics in Medicine 1998).

        None if other images count for the other model.
        """
        if not np.array_equal(self.counts, other.counts):
            return None
        one, two = (sample.is_right[self.counts] for sample in (self, other))
        clusters, total = self._clusters, len(one)
        differences = clusters.sums(one.astype(float) - two.astype(float))
        if clusters.total < total:
            variance = inflation(clusters.total) * float(np.square(differences).sum()) / total**2
            return PairedTest(CLUSTERED_MCNEMAR, _normal_p(float(differences.sum()) / total, variance), variance)
        better, worse = int((differences > 0).sum()), int((differences < 0).sum())
        variance = (better + worse - (better - worse) ** 2 / total) / total**2 if total else float("nan")
        return PairedTest(MCNEMAR, mcnemar(better, worse) if total else float("nan"), variance)

    @property
    def _clusters(self) -> Clusters:
        return Clusters.of([self.patients[int(image)] for image in np.flatnonzero(self.counts)])


def proportion_of_patients(is_right: Bool[Array, "n"], patients: Sequence[str]) -> Estimate:
    """Return the mean over patients of the proportion of right images of each, with Wilson's interval.

    If patients have several images, the interval is from the number of independent images with the same variance, as
    for `Proportion`.
    """
    clusters, total = Clusters.of(patients), len(is_right)
    if not total:
        return UNDEFINED
    shares = clusters.sums(is_right.astype(float)) / clusters.sums(np.ones(total))
    value = float(shares.mean())
    if clusters.total == total:
        return Estimate(value, *wilson(value, total), WILSON)
    # One image for each patient, whose value is the share of the patient, has the same mean and variance.
    number = effective_number(shares, Clusters.of(sorted(set(patients))), total)
    return Estimate(value, *wilson(value, number), CLUSTERED_WILSON)


def wilson(value: float, total: float) -> tuple[float, float]:
    """Return the interval of all proportions that a score test of `value` among `total` images does not reject."""
    center = (value + Z**2 / (2.0 * total)) / (1.0 + Z**2 / total)
    half = Z / (1.0 + Z**2 / total) * np.sqrt(value * (1.0 - value) / total + Z**2 / (4.0 * total**2))
    return max(0.0, float(center - half)), min(1.0, float(center + half))


def effective_number(right: Num[Array, "n"], clusters: Clusters, most: int | None = None) -> float:
    """Return the number of independent images whose proportion has the same variance, adjusted for few patients.

    It is at most the number of images, or `most`. A value of `right` between 0 and 1 is a proportion of images.
    """
    from scipy.special import stdtrit

    value, total = float(right.mean()), len(right)
    sizes = clusters.sums(np.ones(total))
    if clusters.total < 2 or value in (0.0, 1.0):
        return float(clusters.total)
    variance = inflation(clusters.total) * float(np.square(clusters.sums(right) - value * sizes).sum()) / total**2
    adjusted = (Z / stdtrit(clusters.total - 1, 0.975)) ** 2
    limit = float(total if most is None else most)
    return min(limit, value * (1.0 - value) / variance * adjusted) if variance else float(clusters.total)


def mcnemar(better: int, worse: int) -> float:
    """Return the p-value of McNemar's exact test, given the numbers of patients with only one right model.

    It is twice the binomial probability of so few of the rarer kind, and at most 1.
    """
    from scipy.special import bdtr

    return float(min(1.0, 2.0 * bdtr(min(better, worse), better + worse, 0.5))) if better + worse else 1.0


def _normal_p(difference: float, variance: float) -> float:
    if not variance > 0.0:
        return 1.0 if difference == 0.0 else float("nan")
    return 2.0 * NormalDist().cdf(-abs(difference) / variance**0.5)
