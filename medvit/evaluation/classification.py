"""Metrics of classification from probabilities, by name, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.bootstrap import bootstrap
from medvit.metrics.accuracy import accuracy
from medvit.metrics.auroc import auroc
from medvit.metrics.average_precision import average_precision
from medvit.metrics.brier import brier
from medvit.metrics.calibration import expected_calibration_error
from medvit.metrics.confusion import confusion_matrix, f1_macro, sensitivity, specificity
from medvit.metrics.kappa import quadratic_kappa
from medvit.records import Row


def evaluate_classes(
    rows: Sequence[Row],
    truth: Int[Array, "n"],
    probabilities: Float[Array, "n l"],
    classes: tuple[str, ...],
    *,
    resamples: int,
    seed: int,
    notes: Sequence[str] = (),
    positive: int = 1,
) -> Evaluation:
    """All metrics of classification with intervals over patients; `positive` is the index of one of two classes."""
    estimates = bootstrap(
        lambda drawn: classification_metrics(truth[drawn], probabilities[drawn], classes, positive),
        [row.patient_id for row in rows],
        resamples=resamples,
        seed=seed,
    )
    columns = {"truth": truth} | {f"p.{name}": probabilities[:, index] for index, name in enumerate(classes)}
    named = classes[positive] if len(classes) == 2 else ""
    return Evaluation("classification", classes, tuple(rows), estimates, columns, tuple(notes), positive=named)


def classification_metrics(
    truth: Int[Array, "n"], probabilities: Float[Array, "n l"], classes: Sequence[str], positive: int = 1
) -> dict[str, float]:
    """Named metrics of class indices and probabilities.

    `auroc`, `average_precision`, `sensitivity` and `specificity` are those of the class `positive` where there are two
    classes; else the first two are the mean over the classes of one against the rest (as MedMNIST's evaluator has it).
    `kappa_quadratic` is given for classes that are numbers.
    A mean over the classes is undefined where that of one class is: it always is of the same classes.
    The class an image is given is the most probable one: of two, the one above 0.5.
    """
    chosen = probabilities.argmax(axis=1)
    positives = [positive] if len(classes) == 2 else range(len(classes))
    areas = [auroc(truth == index, probabilities[:, index]) for index in positives]
    precisions = [average_precision(truth == index, probabilities[:, index]) for index in positives]
    counts = confusion_matrix(truth, chosen, len(classes))
    recalls, rejections = sensitivity(counts), specificity(counts)
    found = {
        "auroc": float(np.mean(areas)),
        "average_precision": float(np.mean(precisions)),
        "accuracy": accuracy(truth, chosen),
        "balanced_accuracy": float(np.mean(recalls)),
        "f1_macro": f1_macro(counts),
        "brier": brier(truth, probabilities),
        "ece": expected_calibration_error(truth, probabilities),
    }
    if len(classes) == 2:
        return found | {"sensitivity": float(recalls[positive]), "specificity": float(recalls[1 - positive])}
    if all(name.lstrip("-").isdigit() for name in classes):
        found["kappa_quadratic"] = quadratic_kappa(counts, [int(name) for name in classes])
    for metric, values in (("auroc", areas), ("sensitivity", recalls), ("specificity", rejections)):
        found |= {f"{metric}.{name}": float(value) for name, value in zip(classes, values, strict=True)}
    return found
