"""Abstention: the metric of the patients whose predictions are the most confident, if the others are left to a person.

Patients are ordered by confidence, which is the mean over their images of the largest probability or, for an ensemble,
of the agreement of its members. The risk is the share of wrong images or, for a number, the mean absolute error. The
area under the risk over all numbers of kept patients (AURC, Geifman and El-Yaniv, ICLR 2019) is compared with that of
a random order, which is the risk of all patients, and with that of the best order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.tasks.classification import classified
from medvit.statistics import Estimate
from medvit.statistics.bootstrap import bootstrap
from medvit.statistics.clusters import Clusters

SHARES = tuple(round(0.05 * number, 2) for number in range(2, 21))
"""Shares of kept patients for which the metric has an interval."""
SHOWN = (1.0, 0.9, 0.8, 0.7)
"""Shares of kept patients in the table."""
MIN_PATIENTS = 20
"""Number of patients below which there is no curve: of fewer, a tenth is less than two patients."""
PROBABILITY, AGREEMENT = "largest probability", "agreement of the ensemble"


@dataclass(frozen=True)
class AbstentionCurve:
    """Metric over the share of kept patients, for one order of the patients.

    `metric` is accuracy or mean absolute error; `values` has it for each of `SHARES`.
    """

    order: str
    metric: str
    values: Mapping[float, Estimate]
    aurc: Estimate
    random: float
    """AURC of a random order."""
    best: float
    """AURC if patients were ordered by their true risk."""


@dataclass(frozen=True)
class RankedPatients:
    """Sum of the risk, number of images, and confidence of each patient."""

    risks: Float[Array, "p"]
    images: Float[Array, "p"]
    confidence: Float[Array, "p"]

    def curve(self, drawn: Int[Array, "d"]) -> Float[Array, "d"]:
        """Return the risk of the k most confident of the drawn patients, for each k from 1.

        Patients with the same confidence are in random order; the result is for their mean.
        """
        _, member = np.unique(-self.confidence[drawn], return_inverse=True)
        counts = np.bincount(member)
        means = [np.bincount(member, weights=one[drawn]) / counts for one in (self.risks, self.images)]
        risks, images = (np.cumsum(np.repeat(one, counts)) for one in means)
        return np.asarray(risks / images)


def abstention_curves(evaluation: Evaluation, *, resamples: int, seed: int) -> list[AbstentionCurve]:
    """Return a curve for each order of the patients; empty for other tasks, and for too few patients.

    A number has an order only if it is predicted by an ensemble.
    """
    found = _risks(evaluation)
    clusters = Clusters.of(evaluation.patients)
    if found is None or clusters.total < MIN_PATIENTS:
        return []
    risks, metric, orders = found
    images = clusters.sums(np.ones(len(risks)))
    curves = []
    for order, confidence in orders.items():
        ranked = RankedPatients(clusters.sums(risks), images, clusters.sums(confidence) / images)
        curves.append(_curve(ranked, order, metric, resamples=resamples, seed=seed))
    return curves


def num_kept(share: float, num_patients: int) -> int:
    """Return the number of patients in a share of them, at least 1."""
    return max(1, int(share * num_patients + 0.5))


def _risks(
    evaluation: Evaluation,
) -> tuple[Float[Array, "n"], str, Mapping[str, Float[Array, "n"]]] | None:
    """Return the risk of each image, the metric, and the confidence of each image by order; None for other tasks."""
    columns = evaluation.columns
    if evaluation.kind == "regression":
        spread = columns.get("spread")
        orders = {} if spread is None else {AGREEMENT: -spread}
        return np.abs(columns["predicted"] - columns["truth"]), "mae", orders
    if evaluation.kind != "classification":
        return None
    found = classified(evaluation)
    orders = {PROBABILITY: evaluation.probabilities.max(axis=1).astype(np.float64)}
    if "mutual_information" in columns:
        orders[AGREEMENT] = -columns["mutual_information"]
    return (found.chosen != found.truth).astype(float), "accuracy", orders


def _curve(ranked: RankedPatients, order: str, metric: str, *, resamples: int, seed: int) -> AbstentionCurve:
    sign, base = (-1.0, 1.0) if metric == "accuracy" else (1.0, 0.0)

    def statistic(drawn: Array) -> dict[str, float]:
        risks = ranked.curve(drawn)
        values = {str(share): base + sign * risks[num_kept(share, len(drawn)) - 1] for share in SHARES}
        return {**values, "aurc": float(risks.mean())}

    every = np.arange(len(ranked.risks))
    found = bootstrap(statistic, [str(number) for number in every], resamples=resamples, seed=seed)
    best = RankedPatients(ranked.risks, ranked.images, -ranked.risks / ranked.images)
    return AbstentionCurve(
        order,
        metric,
        {share: found[str(share)] for share in SHARES},
        found["aurc"],
        float(ranked.risks.sum() / ranked.images.sum()),
        float(best.curve(every).mean()),
    )
