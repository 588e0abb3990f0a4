"""Regression: a number for each image, such as an age, by smooth L1 or squared error on standardized targets."""

from __future__ import annotations

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
from medvit.metrics.values.r2 import METRIC as R2
from medvit.metrics.values.r2 import determination
from medvit.records import Row
from medvit.tasks import ImageTask, LabelFacts, LossOptions, Target, TargetScale


class Regression(ImageTask):
    """Regression by one output: the standardized number."""

    name = "regression"
    metric = R2.key()

    def target(self, rows: Sequence[Row], labels: Sequence[str], facts: LabelFacts) -> Target:
        """Return the label, with the mean and standard deviation of its values in the training images.

        Raises:
            DataError: If a value is not a number, or all images have the same value.
        """
        (label,) = labels
        numbers = np.array([number(row, label) for row in rows])
        mean, deviation = float(numbers.mean()), float(numbers.std())
        if not deviation > 0.0:
            raise DataError(
                f"all {len(rows)} training images have {label} = {mean:g}; regression needs at least two values"
            )
        return Target(label, (label,), TargetScale(mean=mean, deviation=deviation))

    def encoded(self, row: Row, target: Target) -> Tensor:
        """Return the number in the unit of the label.

        Raises:
            DataError: If the image has no label, or its value is not a number.
        """
        return torch.tensor(number(row, target.label), dtype=torch.float32)

    def has_truth(self, row: Row, target: Target) -> bool:
        """Return whether the image has the label.

        Raises:
            DataError: If the value of the label is not a number.
        """
        return target.label in row.labels and math.isfinite(number(row, target.label))

    def loss(self, rows: Sequence[Row], target: Target, options: LossOptions) -> Loss:
        """Return smooth L1 or mean squared error, in standard deviations of the training targets."""
        mean, deviation = _scale(target)
        distance = F.mse_loss if options.regression == "mse" else F.smooth_l1_loss

        def loss(logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
            return distance(logits.float()[:, 0], (targets.float() - mean) / deviation)

        return loss

    def predictions(self, logits: Float[Tensor, "b o"], target: Target) -> Float[Tensor, "b l"]:
        """Return the number in the unit of the label."""
        mean, deviation = _scale(target)
        return logits.float() * deviation + mean

    def score(self, truth: Num[Array, "n"], predictions: Float[Array, "n l"], target: Target) -> float:
        """Return the coefficient of determination, R^2."""
        return determination(truth.astype(np.float64), predictions[:, 0].astype(np.float64))


def number(row: Row, label: str) -> float:
    """Return the label of an image as a number.

    Raises:
        DataError: If the image has no such label, or its value is not a finite number.
    """
    text = row.labels.get(label)
    try:
        value = float("" if text is None else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{row} has {label} = {text!r}; regression needs a number, such as 61.5: correct the label table, or leave "
            "its cell empty, and ingest again"
        )
    return value


def _scale(target: Target) -> tuple[float, float]:
    assert target.scale is not None, "the target of a regression has a scale"
    return target.scale.mean, target.scale.deviation


TASK = Regression()
