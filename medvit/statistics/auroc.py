"""AUROC of one class against the rest: variance by DeLong, its clustered form, and the paired test of two models.

Every case has a placement, the share of controls that score lower, and every control the share of cases that score
higher; ties count half. AUROC is the mean placement of cases, and also of controls. DeLong et al. (Biometrics 1988)
derive the variance of AUROC from the variances of the placements. Obuchowski (Biometrics 1997) sums placements over the
images of a patient first, so that the images of a patient may depend on each other, and a patient may have cases and
controls. With one image per patient, both are the same.

Intervals are computed on the logit scale, so that they are within 0 and 1 (Pepe, The Statistical Evaluation of Medical
Tests 2003). If all cases score above all controls, the variance is 0, and the score interval of Newcombe
(Statistics in Medicine 2006, method 5) is used.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from medvit.statistics import UNDEFINED, Estimate, PairedTest, Z
from medvit.statistics.clusters import Clusters, inflation

DELONG, OBUCHOWSKI, NEWCOMBE = "DeLong", "Obuchowski", "Newcombe"
NEGLIGIBLE = 1e-12
"""Difference, or variance, that is due to rounding."""
STEPS = 60
"""Halvings of [0, 1] that find the end of an interval to the precision of a float."""


@dataclass(frozen=True)
class Ranking:
    """Scores (N,) of N images, of which some are cases and the others controls."""

    is_case: Bool[Array, "n"]
    scores: Float[Array, "n"]
    patients: Sequence[str]
    """Patient of each image."""

    def estimate(self) -> Estimate:
        """Return AUROC with its interval; not defined without a case or without a control."""
        if self.is_case.all() or not self.is_case.any():
            return UNDEFINED
        parts = _components(self)
        variance = _covariance(parts, parts)
        if variance > NEGLIGIBLE and 0.0 < parts.area < 1.0:
            return Estimate(parts.area, *_logit_interval(parts.area, variance), self._variance_name)
        return Estimate(parts.area, *score_interval(parts.area, parts.num_with_case, parts.num_with_control), NEWCOMBE)

    def compared(self, other: Ranking) -> PairedTest:
        """Return the test of equal AUROC of two models that score the same images.

        The p-value is NaN if the difference has no variance, and 1 if there is also no difference.
        """
        name = self._variance_name
        if self.is_case.all() or not self.is_case.any():
            return PairedTest(name, float("nan"), float("nan"))
        one, two = _components(self), _components(other)
        variance = _covariance(one, one) + _covariance(two, two) - _covariance(one, two) - _covariance(two, one)
        difference = one.area - two.area
        if not variance > NEGLIGIBLE:
            return PairedTest(name, 1.0 if abs(difference) < NEGLIGIBLE else float("nan"), variance)
        return PairedTest(name, 2.0 * NormalDist().cdf(-abs(difference) / variance**0.5), variance)

    def within(self, folds: Mapping[str, Hashable]) -> float:
        """Return the share of pairs of a case and a control of the same fold in which the case scores higher.

        `folds` has the fold of each patient. Ties count half; NaN if no fold has a case and a control.
        """
        names = [folds[patient] for patient in self.patients]
        higher = pairs = 0.0
        for name in dict.fromkeys(names):
            own = np.array([each == name for each in names])
            is_case = self.is_case[own]
            num_pairs = float(is_case.sum()) * float((~is_case).sum())
            if num_pairs:
                higher += num_pairs * float(placements(is_case, self.scores[own])[is_case].mean())
                pairs += num_pairs
        return higher / pairs if pairs else float("nan")

    @property
    def _variance_name(self) -> str:
        return DELONG if len(set(self.patients)) == len(self.patients) else OBUCHOWSKI


@dataclass(frozen=True)
class _Components:
    """AUROC, and the influence of each patient (P,) on it through its cases and through its controls."""

    area: float
    cases: Float[Array, "p"]
    controls: Float[Array, "p"]
    num_with_case: int
    num_with_control: int


def _components(ranking: Ranking) -> _Components:
    is_case, clusters = ranking.is_case, Clusters.of(ranking.patients)
    placed = placements(is_case, ranking.scores)
    num_cases, num_controls = int(is_case.sum()), int((~is_case).sum())
    area = float(placed[is_case].mean())
    with_case, with_control = (int((clusters.sums(one) > 0).sum()) for one in (is_case, ~is_case))
    return _Components(
        area,
        clusters.sums(np.where(is_case, placed - area, 0.0)) / num_cases,
        clusters.sums(np.where(is_case, 0.0, placed - area)) / num_controls,
        with_case,
        with_control,
    )


def placements(is_case: Bool[Array, "n"], scores: Float[Array, "n"]) -> Float[Array, "n"]:
    """Return the share of controls below each case, and the share of cases above each control; ties count half."""
    cases, controls = np.sort(scores[is_case]), np.sort(scores[~is_case])
    below, above = _share_below(controls, scores), 1.0 - _share_below(cases, scores)
    return np.where(is_case, below, above)


def _share_below(ordered: Float[Array, "m"], scores: Float[Array, "n"]) -> Float[Array, "n"]:
    places = np.searchsorted(ordered, scores, side="left") + np.searchsorted(ordered, scores, side="right")
    return np.asarray(places / (2.0 * len(ordered)))


def _covariance(one: _Components, other: _Components) -> float:
    """Return the covariance of two AUROC on the same patients."""
    both = float(one.cases @ other.controls + one.controls @ other.cases)
    of_cases = inflation(one.num_with_case) * float(one.cases @ other.cases)
    of_controls = inflation(one.num_with_control) * float(one.controls @ other.controls)
    return of_cases + of_controls + inflation(len(one.cases)) * both


def _logit_interval(area: float, variance: float) -> tuple[float, float]:
    logit = np.log(area / (1.0 - area))
    half = Z * variance**0.5 / (area * (1.0 - area))
    low, high = (1.0 / (1.0 + np.exp(-end)) for end in (logit - half, logit + half))
    return float(low), float(high)


def score_interval(area: float, num_cases: int, num_controls: int) -> tuple[float, float]:
    """Return the interval of all AUROC that a normal test does not reject (Newcombe 2006, method 5).

    The variance under the tested value is the one of Hanley and McNeil (Radiology 1982), with equal numbers of cases
    and controls in its last two terms.
    """
    pairs, more = num_cases * num_controls, (num_cases + num_controls) / 2.0 - 1.0

    def is_inside(tested: float) -> bool:
        spread = 1.0 + more * ((1.0 - tested) / (2.0 - tested) + tested / (1.0 + tested))
        return bool((area - tested) ** 2 < Z**2 * tested * (1.0 - tested) * spread / pairs)

    low = _boundary(is_inside, inside=area, outside=0.0) if area > 0.0 else 0.0
    high = _boundary(is_inside, inside=area, outside=1.0) if area < 1.0 else 1.0
    return low, high


def _boundary(is_inside: Callable[[float], bool], *, inside: float, outside: float) -> float:
    for _ in range(STEPS):
        middle = (inside + outside) / 2.0
        inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
    return inside
