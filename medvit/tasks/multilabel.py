"""Multi-label classification: several labels of two classes for each image, by binary cross-entropy.

An image may lack some of the labels; a missing label counts neither in the loss nor in metrics.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Num
from numpy import ndarray as Array
from torch import Tensor
from torch.nn import functional as F

from medvit.errors import DataError
from medvit.losses.supervised import Loss
from medvit.metrics.labels.auroc_macro import METRIC as AUROC_MACRO
from medvit.metrics.labels.auroc_macro import auroc_of_labels
from medvit.records import Row
from medvit.tasks import ImageTask, LabelFacts, LossOptions, Target, class_list, report_missing

log = logging.getLogger("medvit")


class MultiLabel(ImageTask):
    """Classification by one logit per label, which is the logit of its positive class."""

    name = "multilabel"
    metric = AUROC_MACRO.key()

    def target(self, rows: Sequence[Row], labels: Sequence[str], facts: LabelFacts) -> Target:
        """Return the labels, with their negative and positive classes.

        The positive class of a label is that of the dataset or, if it is not set, the last one.

        Raises:
            DataError: If a label does not have two classes, or if all training images have the same class of a label.
        """
        pairs = tuple(_pair(label, facts) for label in labels)
        for label, pair in zip(labels, pairs, strict=True):
            found = {row.labels[label] for row in rows if label in row.labels}
            if len(found) < 2:
                has = f"only the class {found.pop()}" if found else "no image with this label"
                raise DataError(
                    f"the training images have {has} of {label}, which needs {pair[0]} and {pair[1]}; remove it from "
                    "labels"
                )
        report_missing(rows, labels)
        return Target("", tuple(labels), pairs=pairs)

    def encoded(self, row: Row, target: Target) -> Tensor:
        """Return 1 for each positive label, 0 for each negative one, NaN for a missing one.

        Raises:
            DataError: If the image has a class of a label that is neither the positive nor the negative one.
        """
        return torch.tensor(known_labels(row, target), dtype=torch.float32)

    def has_truth(self, row: Row, target: Target) -> bool:
        """Return whether an image has any of the labels."""
        return any(label in row.labels for label in target.classes)

    def loss(self, rows: Sequence[Row], target: Target, options: LossOptions) -> Loss:
        """Return binary cross-entropy, averaged over the known labels of a batch.

        With balance=loss, the positive images of a label are weighted so that, in total, they count as much as its
        negative images.

        Raises:
            DataError: If another correction of class imbalance is requested, which needs one class for each image.
        """
        if options.balance not in ("loss", "off"):
            raise DataError(
                f"balance={options.balance} needs one class for each image; set balance=loss or off for several labels"
            )
        truth = np.array([known_labels(row, target) for row in rows])
        positive, negative = (torch.tensor((truth == value).sum(axis=0), dtype=torch.float32) for value in (1, 0))
        weight = negative / positive if options.balance == "loss" else torch.ones(len(target.classes))

        def loss(logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
            known = ~targets.isnan()
            of_positive = weight.to(logits.device).expand_as(logits)
            return F.binary_cross_entropy_with_logits(
                logits.float()[known], targets.float()[known], pos_weight=of_positive[known]
            )

        return loss

    def predictions(self, logits: Float[Tensor, "b o"], target: Target) -> Float[Tensor, "b l"]:
        """Return the probability of the positive class of each label."""
        return logits.float().sigmoid()

    def score(self, truth: Num[Array, "n l"], predictions: Float[Array, "n l"], target: Target) -> float:
        """Return the mean AUROC over the labels for which it is defined."""
        areas = auroc_of_labels(truth, predictions)
        defined = areas[~np.isnan(areas)]
        return float(defined.mean()) if defined.size else math.nan


def known_labels(row: Row, target: Target) -> list[float]:
    """Return 1 for each positive label, 0 for each negative one, NaN for a missing one.

    Raises:
        DataError: If the image has a class of a label that is neither the positive nor the negative one.
    """
    found = []
    for label, pair in zip(target.classes, target.pairs, strict=True):
        name = row.labels.get(label)
        if name is not None and name not in pair:
            raise DataError(f"{row} has {label} = {name!r}; expected {pair[0]} or {pair[1]}")
        found.append(math.nan if name is None else float(name == pair[1]))
    return found


def _pair(label: str, facts: LabelFacts) -> tuple[str, str]:
    """Return the negative and the positive class of a label."""
    classes = facts.classes.get(label, ())
    if len(classes) != 2:
        known = ", ".join(sorted(facts.classes)) or "none"
        raise DataError(
            f"labels contains {label}, which has {len(classes)} classes ({class_list(classes)}); expected "
            f"labels with two classes (labels found: {known})"
        )
    positive = facts.positive.get(label, "")
    if not positive:
        log.info("the positive class of %s is %s, the last of its classes", label, classes[1])
    first, second = classes
    return (second, first) if positive == first else (first, second)


TASK = MultiLabel()
