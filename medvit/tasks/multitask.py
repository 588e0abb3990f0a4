"""Multi-task model: several labels, each with a task of its own, one head each, and a weighted sum of their losses.

An image may lack some of the labels; a missing label counts neither in the loss nor in metrics.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Num
from numpy import ndarray as Array
from torch import Tensor

from medvit.errors import DataError
from medvit.losses.supervised import Loss
from medvit.records import Row
from medvit.tasks import (
    OF_CLASSES,
    ImageTask,
    LabelFacts,
    LabelTarget,
    LabelTaskName,
    LossOptions,
    Target,
    image_task,
    report_missing,
)
from medvit.tasks.classification import class_index
from medvit.tasks.regression import number

LOWEST_SCORE = -1.0
"""Lower bound of each score in the mean over labels. Otherwise, a very negative R2 of one label could dominate it."""


class MultiTask(ImageTask):
    """Several labels, whose logits and predictions are concatenated in the order of the labels.

    The score is the mean of the scores of the labels; a score below `LOWEST_SCORE` counts as `LOWEST_SCORE`. A label is
    included in this mean if its score is defined and its loss has a weight above zero.
    """

    name = "multitask"
    metric = "mean_score"

    def target(
        self,
        rows: Sequence[Row],
        labels: Sequence[str],
        facts: LabelFacts,
        *,
        tasks: Mapping[str, LabelTaskName] = MappingProxyType({}),
        weights: Mapping[str, float] = MappingProxyType({}),
    ) -> Target:
        """Return the labels, each with the target of its task.

        A label without a task is a classification, and one without a weight has the weight 1.

        Raises:
            DataError: If no training image has a label, a label does not allow its task, or two labels give results
                of the same name.
        """
        parts = []
        for label in labels:
            task = tasks.get(label, "classification")
            parts.append(LabelTarget(task, _own_target(rows, label, task, facts), weights.get(label, 1.0)))
        taken = Counter(name for part in parts for name in {part.target.label, *part.names})
        twice = [name for name, count in taken.items() if count > 1]
        if twice:
            raise DataError(
                f"two labels of tasks have predictions or metrics named {twice[0]}, a label with a class; rename one "
                "of the labels"
            )
        report_missing(rows, labels)
        return Target("", tuple(name for part in parts for name in part.names), parts=tuple(parts))

    def encoded(self, row: Row, target: Target) -> Tensor:
        """Return the target of each label as a number, such as the index of a class; NaN for a missing label.

        Raises:
            DataError: If a label does not fit its task.
        """
        return torch.tensor(truth_of(row, target), dtype=torch.float32)

    def has_truth(self, row: Row, target: Target) -> bool:
        """Return whether an image has any of the labels.

        Raises:
            DataError: If a number is expected, and the value is not a number.
        """
        return any(image_task(part.task).has_truth(row, part.target) for part in target.parts)

    def num_outputs(self, target: Target) -> int:
        """Return the number of logits of all labels."""
        return sum(_num_logits(target))

    def loss(self, rows: Sequence[Row], target: Target, options: LossOptions) -> Loss:
        """Return the weighted sum of the losses of the labels, each averaged over the images that have the label.

        Raises:
            DataError: If the images do not allow the options.
        """
        losses = [_own_loss(rows, part, options) for part in target.parts]
        sizes = _num_logits(target)

        def loss(logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
            total = 0.0 * logits.float().sum()  # so that each head has a gradient, of zero without a label
            for part, own, one, truth in zip(
                target.parts, losses, logits.split(sizes, dim=1), targets.unbind(dim=1), strict=True
            ):
                known = ~truth.isnan()
                if part.weight and known.any():
                    truth = truth[known].long() if part.task in OF_CLASSES else truth[known]
                    total = total + part.weight * own(one[known], truth, progress)
            return total

        return loss

    def predictions(self, logits: Float[Tensor, "b o"], target: Target) -> Float[Tensor, "b l"]:
        """Return the predictions of each label: the probabilities of its classes, or its number."""
        each = zip(target.parts, logits.split(_num_logits(target), dim=1), strict=True)
        return torch.cat([image_task(part.task).predictions(one, part.target) for part, one in each], dim=1)

    def score(self, truth: Num[Array, "n l"], predictions: Float[Array, "n k"], target: Target) -> float:
        """Return the mean score of the labels."""
        return self.scores(truth, predictions, target)[self.metric]

    def scores(self, truth: Num[Array, "n l"], predictions: Float[Array, "n k"], target: Target) -> dict[str, float]:
        """Return the mean score of the labels, then the score of each label, as `METRIC.LABEL`."""
        found = {}
        for part, true in zip(target.parts, truth.T, strict=True):
            task, label = image_task(part.task), part.target.label
            known = ~np.isnan(true)
            given = predictions[:, target.spans[label]][known]
            true = true[known].astype(np.int64) if part.task in OF_CLASSES else true[known]
            found[f"{task.metric}.{label}"] = task.score(true, given, part.target) if known.any() else math.nan
        counted = [
            max(score, LOWEST_SCORE)
            for score, part in zip(found.values(), target.parts, strict=True)
            if part.weight and not math.isnan(score)
        ]
        return {self.metric: float(np.mean(counted)) if counted else math.nan} | found


def truth_of(row: Row, target: Target) -> list[float]:
    """Return the index of the class, or the number, of each label of an image; NaN for a missing label.

    Raises:
        DataError: If a label does not fit its task.
    """
    return [
        math.nan
        if part.target.label not in row.labels
        else class_index(row, part.target)
        if part.task in OF_CLASSES
        else number(row, part.target.label)
        for part in target.parts
    ]


def _own_target(rows: Sequence[Row], label: str, task: LabelTaskName, facts: LabelFacts) -> Target:
    known = [row for row in rows if label in row.labels]
    if not known:
        found = ", ".join(sorted({name for row in rows for name in row.labels})) or "none"
        raise DataError(f"tasks names {label}, a label that no training image has (labels found: {found})")
    try:
        return image_task(task).target(known, (label,), facts)
    except DataError as error:
        raise DataError(f"{label}: {error}") from None


def _own_loss(rows: Sequence[Row], part: LabelTarget, options: LossOptions) -> Loss:
    label = part.target.label
    known = [row for row in rows if label in row.labels]
    try:
        return image_task(part.task).loss(known, part.target, options)
    except DataError as error:
        raise DataError(f"{label}: {error}") from None


def _num_logits(target: Target) -> list[int]:
    return [image_task(part.task).num_outputs(part.target) for part in target.parts]


TASK = MultiTask()
