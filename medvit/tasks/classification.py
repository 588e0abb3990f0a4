"""Classification: one of several classes for each image, by cross-entropy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from numpy import ndarray as Array
from torch import Tensor

from medvit.errors import DataError
from medvit.losses.class_balance import ClassBalance
from medvit.losses.supervised import Loss, classification_loss
from medvit.metrics.auroc import METRIC as AUROC
from medvit.metrics.auroc import mean_auroc
from medvit.records import Row
from medvit.tasks import ImageTask, LabelFacts, LossOptions, Target


class Classification(ImageTask):
    """Classification by one logit per class."""

    name = "classification"
    metric = AUROC.key()

    def target(self, rows: Sequence[Row], labels: Sequence[str], facts: LabelFacts) -> Target:
        """Return the label and its classes.

        Raises:
            DataError: If there are fewer than two classes.
        """
        (label,) = labels
        classes = tuple(facts.classes.get(label, ()))
        if len(classes) < 2:
            found = ", ".join(classes) or "none"
            raise DataError(f"{self.name} needs at least two classes; found {found}")
        return Target(label, classes)

    def encoded(self, row: Row, target: Target) -> Tensor:
        """Return the index of the class.

        Raises:
            DataError: If the image has no label, or a class that is not among those of the target.
        """
        return torch.tensor(class_index(row, target))

    def has_truth(self, row: Row, target: Target) -> bool:
        """Return whether the image has one of the classes."""
        return row.labels.get(target.label) in target.classes

    def loss(self, rows: Sequence[Row], target: Target, options: LossOptions) -> Loss:
        """Return cross-entropy, with the requested correction of class imbalance."""
        return classification_loss(
            ClassBalance(options.balance, class_counts(rows, target)), smoothing=options.smoothing
        )

    def predictions(self, logits: Float[Tensor, "b o"], target: Target) -> Float[Tensor, "b l"]:
        """Return the probability of each class."""
        return logits.float().softmax(dim=1)

    def score(self, truth: Num[Array, "n"], predictions: Float[Array, "n l"], target: Target) -> float:
        """Return the mean over classes of the AUROC of each class against the others."""
        return mean_auroc(truth, predictions)


def class_index(row: Row, target: Target) -> int:
    """Return the index of the class of an image.

    Raises:
        DataError: If the image has no label, or a class that is not among those of the target.
    """
    found = row.labels.get(target.label)
    if found is None:
        known = ", ".join(sorted(row.labels)) or "none"
        raise DataError(
            f"{row} has no label {target.label!r} (its labels: {known}); give label=... or filter the dataset"
        )
    if found not in target.classes:
        raise DataError(f"{row} has {target.label} = {found!r}; expected one of {', '.join(target.classes)}")
    return target.classes.index(found)


def class_counts(rows: Sequence[Row], target: Target) -> list[int]:
    """Return the number of images of each class."""
    counts = Counter(row.labels[target.label] for row in rows)
    return [counts[name] for name in target.classes]


TASK = Classification()
