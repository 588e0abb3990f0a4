"""Survival: the time to an event, such as death, for each image, with censoring, by hazards in time intervals."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Num
from numpy import ndarray as Array
from torch import Tensor

from medvit.errors import DataError
from medvit.losses.supervised import Loss
from medvit.losses.survival import constant_logits, survival_curves, survival_loss
from medvit.metrics.survival.c_index import METRIC as C_INDEX
from medvit.metrics.survival.c_index import concordance
from medvit.records import Row
from medvit.survival import restricted_means, survival_names, survival_times, time_text
from medvit.tasks import NUM_INTERVALS, ImageTask, LabelFacts, LossOptions, Target

log = logging.getLogger("medvit")


@dataclass(frozen=True)
class Survival(ImageTask):
    """Survival with one logit for each time interval: of the probability of the event in it, given no event before."""

    num_intervals: int = NUM_INTERVALS

    name = "survival"
    metric = C_INDEX.key()

    def with_intervals(self, number: int) -> Survival:
        """Return the task with a number of time intervals."""
        return Survival(number)

    def target(self, rows: Sequence[Row], labels: Sequence[str], facts: LabelFacts) -> Target:
        """Return the labels of time and event, with time intervals that have about equally many events.

        The intervals end at quantiles of the times of events, over patients. Equal quantiles give fewer intervals.

        Raises:
            DataError: If no image has a label, an image lacks one of the labels, a value is invalid, or events have
                fewer than two times.
        """
        label, event = labels
        for name in labels:
            if not any(name in row.labels for row in rows):
                known = ", ".join(sorted({key for row in rows for key in row.labels})) or "none"
                raise DataError(f"no training image has the label {name} (labels found: {known}); give label and event")
        found = {(row.patient_id, *outcome(row, label, event)) for row in rows}
        times = np.array(sorted(time for _, time, observed in found if observed and time > 0.0))
        num_times = len(np.unique(times))
        if num_times < 2:
            raise DataError(
                f"the training images have {num_times} different {label} with {event} = 1; survival needs at least two"
            )
        shares = np.arange(1, self.num_intervals + 1) / self.num_intervals
        ends = tuple(float(time_text(end)) for end in np.unique(np.quantile(times, shares, method="inverted_cdf")))
        log.info(
            "survival: %d of %d times in the training images end with %s = 1, the others are censored; %d intervals",
            sum(observed == 1.0 for *_, observed in found),
            len(found),
            event,
            len(ends),
        )
        return Target(label, survival_names(label, ends), event=event, ends=ends)

    def encoded(self, row: Row, target: Target) -> Tensor:
        """Return the time, and 1 if the event was observed, else 0.

        Raises:
            DataError: If the image lacks either label, or a value is invalid.
        """
        return torch.tensor(outcome(row, target.label, target.event), dtype=torch.float32)

    def has_truth(self, row: Row, target: Target) -> bool:
        """Return whether the image has the labels of time and event.

        Raises:
            DataError: If the image has only one of the labels, or a value is invalid.
        """
        is_labeled = target.label in row.labels or target.event in row.labels
        return is_labeled and bool(outcome(row, target.label, target.event))

    def num_outputs(self, target: Target) -> int:
        """Return the number of time intervals."""
        return len(target.ends)

    def initial_logits(self, rows: Sequence[Row], target: Target) -> Float[Tensor, "o"]:
        """Return the logits that fit the training images best if all images have the same hazards."""
        return constant_logits(torch.stack([self.encoded(row, target) for row in rows]), target.ends)

    def loss(self, rows: Sequence[Row], target: Target, options: LossOptions) -> Loss:
        """Return the negative log likelihood of times and events."""
        return survival_loss(target.ends)

    def predictions(self, logits: Float[Tensor, "b o"], target: Target) -> Float[Tensor, "b l"]:
        """Return the probability of being without the event at each time of the target."""
        return survival_curves(logits, target.ends, survival_times(target.classes))

    def score(self, truth: Num[Array, "n 2"], predictions: Float[Array, "n l"], target: Target) -> float:
        """Return the concordance of times with the restricted means of the predicted curves."""
        times, events = truth.astype(np.float64).T
        return concordance(times, events == 1.0, restricted_means(survival_times(target.classes), predictions))


def outcome(row: Row, label: str, event: str) -> tuple[float, float]:
    """Return the time of an image, and 1 if the event was observed at that time, or 0 if it was not up to then.

    Raises:
        DataError: If the image lacks either label, the time is not a number of 0 or more, or the event is not 0 or 1.
    """
    for own, other in ((label, event), (event, label)):
        if own not in row.labels:
            raise DataError(
                f"{row} has no {own}, but {other} = {row.labels.get(other)!r}; survival needs both: complete the label "
                "table, or leave both cells empty, and ingest again"
            )
    time, observed = _number(row.labels[label]), _number(row.labels[event])
    if not time >= 0.0:
        raise DataError(
            f"{row} has {label} = {row.labels[label]!r}; survival needs a time of 0 or more, such as 421: correct the "
            "label table, or leave the cells of time and event empty, and ingest again"
        )
    if observed not in (0.0, 1.0):
        raise DataError(
            f"{row} has {event} = {row.labels[event]!r}; survival needs 1 if the event was observed, or 0 if it was "
            "not up to that time: correct the label table, or leave the cells of time and event empty, and ingest again"
        )
    return time, observed


def _number(text: str) -> float:
    """Return a finite number; NaN for any other text."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


TASK = Survival()
