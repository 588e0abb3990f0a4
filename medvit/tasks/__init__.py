"""Tasks with one result for each image, one task per module: targets, loss, predictions and validation metric.

A task is a module of this package with a constant `TASK`. It turns a row of a manifest into a target, logits into a
prediction, and gives the loss between logits and targets. Fine-tuning, inference and evaluation use a task only through
`ImageTask`. Segmentation is not among them, because its result is an image.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
from jaxtyping import Float, Num
from numpy import ndarray as Array
from pydantic import Field

from medvit.config import Config
from medvit.losses.class_balance import Balance
from medvit.records import Row
from medvit.registry import occupants

if TYPE_CHECKING:
    from torch import Tensor

    from medvit.losses.supervised import Loss

log = logging.getLogger("medvit")

ImageTaskName = Literal["classification", "multilabel", "multitask", "ordinal", "regression", "survival"]
TaskName = Literal[ImageTaskName, "segmentation"]
LabelTaskName = Literal["classification", "ordinal", "regression"]
"""Tasks of one label, which a multi-task model can combine."""
RegressionLoss = Literal["smooth_l1", "mse"]
NOUNS: dict[str, str] = {
    "classification": "a classification",
    "multilabel": "a multi-label classification",
    "multitask": "a multi-task model",
    "ordinal": "an ordinal classification",
    "regression": "a regression",
    "segmentation": "a segmentation",
    "survival": "a survival prediction",
}
"""Task -> its name in a sentence, with the article."""
OF_CLASSES: tuple[TaskName, ...] = ("classification", "ordinal")
"""Tasks in which each image has one class."""
OF_NUMBERS: tuple[TaskName, ...] = ("regression", "survival")
"""Tasks whose label is a number."""
MAX_LISTED = 12
"""Maximum number of classes that a message lists."""
NUM_INTERVALS = 10
"""Default number of time intervals of a survival prediction."""


class TargetScale(Config):
    """Mean and standard deviation of the training targets of a regression, by which they are standardized."""

    mean: float
    """Mean of the training targets, in the unit of the label."""
    deviation: float = Field(gt=0.0)
    """Standard deviation of the training targets, in the unit of the label."""


@dataclass(frozen=True)
class Target:
    """Description of the quantity that a model predicts for each image.

    `label` is the name of the label; it is empty for several labels. `classes` has one name per predicted number: the
    classes of the label; for a regression, only the label; for a multi-label classification, all its labels; for a
    multi-task model, `LABEL.CLASS` for each class of a label, and `LABEL` for a number;
    for a survival prediction, `LABEL > TIME` for each probability.
    """

    label: str
    classes: tuple[str, ...]
    scale: TargetScale | None = None
    """Standardization of a regression; unset for other tasks."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Negative and positive class of each label of a multi-label classification; empty for other tasks."""
    event: str = ""
    """Label of the event of a survival prediction, whose `label` is that of the time; empty for other tasks."""
    ends: tuple[float, ...] = ()
    """Ends of the time intervals of a survival prediction; empty for other tasks."""
    parts: tuple[LabelTarget, ...] = ()
    """Targets of the labels of a multi-task model; empty for other tasks."""

    @property
    def scales(self) -> tuple[TargetScale, ...]:
        """Standardizations of all regressions."""
        own = () if self.scale is None else (self.scale,)
        return own + tuple(scale for part in self.parts for scale in part.target.scales)

    @property
    def spans(self) -> dict[str, slice]:
        """Positions in `classes` of the predictions of each label of a multi-task model, keyed by label."""
        ends = np.cumsum([len(part.target.classes) for part in self.parts]).tolist()
        starts = [0, *ends[:-1]]
        labels = [part.target.label for part in self.parts]
        return {label: slice(start, end) for label, start, end in zip(labels, starts, ends, strict=True)}


@dataclass(frozen=True)
class LabelTarget:
    """Target of one label of a multi-task model, its task, and the weight of its loss."""

    task: LabelTaskName
    target: Target
    weight: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numbers that are predicted for this label: `LABEL`, or `LABEL.CLASS` for each class."""
        label = self.target.label
        is_number = self.task == "regression"
        return (label,) if is_number else tuple(f"{label}.{name}" for name in self.target.classes)


class LabelTask(Config):
    """Label of a multi-task model, as its checkpoint stores it."""

    label: str
    """Key of the manifest's labels."""
    task: LabelTaskName
    """Task of the label."""
    classes: tuple[str, ...]
    """Class names in the order of the predictions; of a regression, the label alone."""
    weight: float = 1.0
    """Weight of the loss in the training."""
    positive: str = ""
    """Positive one of two classes; empty if not given."""


class LabelFacts(Protocol):
    """Facts of a dataset about its labels."""

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Classes of each label, in order."""
        ...

    @property
    def positive(self) -> Mapping[str, str]:
        """Positive class of each label for which one is set; only labels of two classes have one."""
        ...


@dataclass(frozen=True)
class LossOptions:
    """Options of the losses of all tasks; each task uses those that apply to it."""

    smoothing: float = 0.0
    """Label smoothing of a classification."""
    balance: Balance = "off"
    """Correction of class imbalance."""
    regression: RegressionLoss = "smooth_l1"


class ImageTask(ABC):
    """Task with one result for each image."""

    name: ClassVar[str]
    metric: ClassVar[str]
    """Key of the metric by which the best epoch is selected; higher is better."""

    @abstractmethod
    def target(self, rows: Sequence[Row], labels: Sequence[str], facts: LabelFacts) -> Target:
        """Return the target of a model, given its training images, each of which has at least one of the labels.

        A multi-label classification takes several labels, and a survival prediction those of time and event; all other
        tasks take one.

        Raises:
            DataError: If the images do not allow the task.
        """

    @abstractmethod
    def encoded(self, row: Row, target: Target) -> Tensor:
        """Return the true value of an image, encoded as the loss expects it.

        Raises:
            DataError: If the image lacks the label, or if the value of the label does not fit the task.
        """

    @abstractmethod
    def has_truth(self, row: Row, target: Target) -> bool:
        """Return whether an image has a label that the model predicts.

        Raises:
            DataError: If the task is a regression, and the label of the image is not a number.
        """

    def with_intervals(self, number: int) -> ImageTask:
        """Return the task with a number of time intervals; tasks without intervals are unchanged."""
        return self

    def num_outputs(self, target: Target) -> int:
        """Return the number of logits that the model needs for the target."""
        return len(target.classes)

    def initial_logits(self, rows: Sequence[Row], target: Target) -> Float[Tensor, "o"] | None:
        """Return the logits at which the bias of a new head starts, given the training images; None for zeros."""
        return None

    @abstractmethod
    def loss(self, rows: Sequence[Row], target: Target, options: LossOptions) -> Loss:
        """Return the loss function of logits (B, O) and encoded targets.

        Class weights are computed from `rows`, the training images.

        Raises:
            DataError: If the options cannot be applied to these images.
        """

    @abstractmethod
    def predictions(self, logits: Float[Tensor, "b o"], target: Target) -> Float[Tensor, "b l"]:
        """Return float32 predictions: the probabilities of the classes, or numbers in the unit of the label."""

    @abstractmethod
    def score(self, truth: Num[Array, "n *l"], predictions: Float[Array, "n l"], target: Target) -> float:
        """Return the value of `metric` for encoded targets (`truth`) and predictions; NaN if undefined."""

    def scores(self, truth: Num[Array, "n *l"], predictions: Float[Array, "n l"], target: Target) -> dict[str, float]:
        """Return values keyed by metric: `score`, which selects the best epoch, and others, which are only logged."""
        return {self.metric: self.score(truth, predictions, target)}


def class_list(classes: Sequence[str], empty: str = "none") -> str:
    """Return the names of classes for a message: all of a few, else the first ones and the number of all.

    A label that is a number, such as an age, has hundreds of values.
    """
    if len(classes) <= MAX_LISTED:
        return ", ".join(classes) or empty
    return f"{', '.join(classes[:MAX_LISTED])}, ... ({len(classes)} in all)"


def report_missing(rows: Sequence[Row], labels: Sequence[str]) -> None:
    """Log how many training images lack each label."""
    for label in labels:
        missing = sum(label not in row.labels for row in rows)
        if missing:
            log.info("%d of %d training images have no %s, which does not count for them", missing, len(rows), label)


def image_task(name: str) -> ImageTask:
    """Return the task with a name."""
    return next(task for task in occupants(__name__, "TASK") if task.name == name)


def is_image_task(name: str) -> bool:
    """Return whether a task has one result for each image; false for segmentation."""
    return name != "segmentation"
