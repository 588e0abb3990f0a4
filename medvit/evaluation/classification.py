"""Metrics of classification from probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array
from sklearn import metrics

from medvit.evaluation import Evaluation
from medvit.evaluation.bootstrap import bootstrap
from medvit.samples import Row

NUM_BINS = 10
"""Bins of the expected calibration error, of equal width in confidence."""


def evaluate_classes(
    rows: Sequence[Row],
    truth: Int[Array, "n"],
    probabilities: Float[Array, "n l"],
    classes: tuple[str, ...],
    *,
    resamples: int,
    seed: int,
    notes: Sequence[str] = (),
) -> Evaluation:
    """All metrics of classification with intervals over patients."""
    estimates = bootstrap(
        lambda drawn: classification_metrics(truth[drawn], probabilities[drawn], classes),
        [row.patient_id for row in rows],
        resamples=resamples,
        seed=seed,
    )
    columns = {"truth": truth} | {f"p.{name}": probabilities[:, index] for index, name in enumerate(classes)}
    return Evaluation("classification", classes, tuple(rows), estimates, columns, tuple(notes))


def classification_metrics(
    truth: Int[Array, "n"], probabilities: Float[Array, "n l"], classes: Sequence[str]
) -> dict[str, float]:
    """Named metrics of class indices and probabilities.

    `auroc` and `average_precision` are those of class 1 where there are two classes, else the mean over the classes of
    one against the rest (as MedMNIST's evaluator has it). `kappa_quadratic` is given for classes that are numbers.
    """
    chosen = probabilities.argmax(axis=1)
    positives = [1] if len(classes) == 2 else range(len(classes))
    areas = {classes[index]: _auroc(truth == index, probabilities[:, index]) for index in positives}
    precisions = [_average_precision(truth == index, probabilities[:, index]) for index in positives]
    recalls = [_recall(truth, chosen, index) for index in range(len(classes))]
    found = {
        "auroc": float(np.mean(list(areas.values()))),
        "average_precision": float(np.mean(precisions)),
        "accuracy": float((chosen == truth).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "f1_macro": float(metrics.f1_score(truth, chosen, average="macro", zero_division=0.0)),
        "brier": brier(truth, probabilities),
        "ece": expected_calibration_error(truth, probabilities),
    }
    if len(classes) == 2:
        found |= {"sensitivity": recalls[1], "specificity": recalls[0]}
    else:
        found |= {f"auroc.{name}": area for name, area in areas.items()}
        if all(name.lstrip("-").isdigit() for name in classes):
            found["kappa_quadratic"] = _kappa(truth, chosen)
    return found


def brier(truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> float:
    """Mean over images of the squared distance of the probabilities from the truth (Brier 1950): 0 is best, 2 worst."""
    return float(np.square(probabilities - np.eye(probabilities.shape[1])[truth]).sum(axis=1).mean())


def expected_calibration_error(truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> float:
    """Mean over images of |accuracy - confidence| of the bin of their confidence (Guo et al., ICML 2017)."""
    return float(
        sum(share * abs(accuracy - confidence) for confidence, accuracy, share in reliability(truth, probabilities))
    )


def reliability(truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> list[tuple[float, float, float]]:
    """Of each bin that is not empty: mean confidence, accuracy, and share of the images."""
    confidence = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        (float(confidence[bins == b].mean()), float(hits[bins == b].mean()), float((bins == b).mean()))
        for b in np.unique(bins)
    ]


def _auroc(positive: Array, scores: Array) -> float:
    return float(metrics.roc_auc_score(positive, scores)) if 0 < positive.sum() < len(positive) else float("nan")


def _average_precision(positive: Array, scores: Array) -> float:
    return float(metrics.average_precision_score(positive, scores)) if positive.any() else float("nan")


def _recall(truth: Array, chosen: Array, index: int) -> float:
    members = truth == index
    return float((chosen[members] == index).mean()) if members.any() else float("nan")


def _kappa(truth: Array, chosen: Array) -> float:
    if len(np.unique(np.concatenate([truth, chosen]))) < 2:
        return float("nan")
    return float(metrics.cohen_kappa_score(truth, chosen, weights="quadratic"))
