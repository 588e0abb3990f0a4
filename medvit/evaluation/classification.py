"""Metrics of classification from probabilities.

Written out in NumPy and held against scikit-learn by the tests: a bootstrap computes them thousands of times, and a
call there spends nearly all of its time on checking its input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

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
    The class an image is given is the most probable one: of two, the one above 0.5.
    """
    chosen = probabilities.argmax(axis=1)
    positives = [1] if len(classes) == 2 else range(len(classes))
    areas = {classes[index]: _auroc(truth == index, probabilities[:, index]) for index in positives}
    precisions = [_average_precision(truth == index, probabilities[:, index]) for index in positives]
    counts = confusion(truth, chosen, len(classes))
    recalls = [_ratio(counts[index, index], counts[index].sum()) for index in range(len(classes))]
    found = {
        "auroc": float(np.mean(list(areas.values()))),
        "average_precision": float(np.mean(precisions)),
        "accuracy": float((chosen == truth).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "f1_macro": _f1_macro(counts),
        "brier": brier(truth, probabilities),
        "ece": expected_calibration_error(truth, probabilities),
    }
    if len(classes) == 2:
        found |= {"sensitivity": recalls[1], "specificity": recalls[0]}
    else:
        if all(name.lstrip("-").isdigit() for name in classes):
            found["kappa_quadratic"] = _kappa_quadratic(counts, [int(name) for name in classes])
        found |= {f"auroc.{name}": area for name, area in areas.items()}
        found |= {f"sensitivity.{name}": recall for name, recall in zip(classes, recalls, strict=True)}
        found |= {f"specificity.{name}": _specificity(counts, index) for index, name in enumerate(classes)}
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


def confusion(truth: Int[Array, "n"], chosen: Int[Array, "n"], num_classes: int) -> Int[Array, "l l"]:
    """How many images of each class (rows) were given each class (columns)."""
    cells = np.bincount(truth * num_classes + chosen, minlength=num_classes * num_classes)
    return cells.reshape(num_classes, num_classes)


def _auroc(positive: Bool[Array, "n"], scores: Float[Array, "n"]) -> float:
    """The chance that a case scores above a control, ties counting half."""
    cases, controls = _at_scores(positive, scores)
    below = np.cumsum(controls) - controls / 2.0
    return _ratio((cases * below).sum(), cases.sum() * controls.sum())


def _average_precision(positive: Bool[Array, "n"], scores: Float[Array, "n"]) -> float:
    """Precision at each threshold, weighted by the cases it adds."""
    cases, controls = (counts[::-1] for counts in _at_scores(positive, scores))
    found = np.cumsum(cases)
    return _ratio((cases * found / (found + np.cumsum(controls))).sum(), cases.sum())


def _at_scores(positive: Array, scores: Array) -> tuple[Array, Array]:
    """How many cases and how many controls have each distinct score, by rising score."""
    _, place = np.unique(scores, return_inverse=True)
    every = np.bincount(place)
    cases = np.bincount(place, weights=positive)
    return cases, every - cases


def _f1_macro(counts: Int[Array, "l l"]) -> float:
    """Mean F1 of the classes that occur in truth or choice."""
    members = counts.sum(axis=0) + counts.sum(axis=1)
    return float((2.0 * np.diag(counts)[members > 0] / members[members > 0]).mean())


def _specificity(counts: Int[Array, "l l"], index: int) -> float:
    others = np.delete(counts, index, axis=0)
    return _ratio(others.sum() - others[:, index].sum(), others.sum())


def _kappa_quadratic(counts: Int[Array, "l l"], grades: Sequence[int]) -> float:
    """Agreement beyond chance when an error costs the square of its size in grades (Cohen 1968)."""
    grade = np.array(grades)
    cost = np.square(grade[:, None] - grade[None, :])
    by_chance = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    return 1.0 - _ratio((cost * counts).sum(), (cost * by_chance).sum())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
