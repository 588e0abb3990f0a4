"""Tasks with one result for each image, one per module: what is predicted, its loss, and the metric of validation.

A task is a module of this package with a constant `TASK`. It turns a row of a manifest into a target, logits into a
prediction, and gives the loss between logits and targets. Fine-tuning, inference and evaluation use a task only through
`ImageTask`. Segmentation is not among them, because its result is an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

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

ImageTaskName = Literal["classification", "multilabel", "ordinal", "regression", "survival"]
TaskName = Literal[ImageTaskName, "segmentation"]
RegressionLoss = Literal["smooth_l1", "mse"]
NOUNS: dict[str, str] = {
    "classification": "a classification",
    "multilabel": "a multi-label classification",
    "ordinal": "an ordinal classification",
    "regression": "a regression",
    "segmentation": "a segmentation",
    "survival": "a survival prediction",
}
"""Task -> its name in a sentence."""
OF_CLASSES: tuple[TaskName, ...] = ("classification", "ordinal")
"""Tasks in which each image has one class."""
OF_NUMBERS: tuple[TaskName, ...] = ("regression", "survival")
"""Tasks whose label is a number."""
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
    """Target of a model for each image.

    `classes` has one name per predicted number: the classes of the label, the label alone for a regression, the labels
    of a multi-label classification, whose `label` is empty, or the names of survival probabilities.
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


class LabelFacts(Protocol):
    """Facts of a dataset about its labels."""

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Classes of each label, in order."""
        ...

    @property
    def positive(self) -> Mapping[str, str]:
        """Positive class of labels of two classes, if it is set."""
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
        """Return the target of a model from its training images, each of which has one of the labels.

        A multi-label classification has several labels, and a survival prediction those of time and event.

        Raises:
            DataError: If the images do not allow the task.
        """

    @abstractmethod
    def encoded(self, row: Row, target: Target) -> Tensor:
        """Return the target of an image for the loss.

        Raises:
            DataError: If the image has no such label, or its value does not fit the task.
        """

    @abstractmethod
    def has_truth(self, row: Row, target: Target) -> bool:
        """Return whether an image has what the model predicts.

        Raises:
            DataError: If a number is expected, and the value is not one.
        """

    def with_intervals(self, number: int) -> ImageTask:
        """Return the task with a number of time intervals; tasks without intervals are unchanged."""
        return self

    def num_outputs(self, target: Target) -> int:
        """Return the number of logits."""
        return len(target.classes)

    @abstractmethod
    def loss(self, rows: Sequence[Row], target: Target, options: LossOptions) -> Loss:
        """Return the loss between logits (B, O) and targets as encoded, given the training images.

        Raises:
            DataError: If the images do not allow the options.
        """

    @abstractmethod
    def predictions(self, logits: Float[Tensor, "b o"], target: Target) -> Float[Tensor, "b l"]:
        """Return float32 predictions: the probabilities of the classes, or numbers in the unit of the label."""

    @abstractmethod
    def score(self, truth: Num[Array, "n *l"], predictions: Float[Array, "n l"], target: Target) -> float:
        """Return the value of `metric` for targets as encoded for the loss; NaN if undefined."""


def image_task(name: str) -> ImageTask:
    """Return the task with a name."""
    return next(task for task in occupants(__name__, "TASK") if task.name == name)


def is_image_task(name: str) -> bool:
    """Return whether a task has one result for each image; a segmentation does not."""
    return name != "segmentation"
