"""Metrics of predictions, one a file: training, evaluation and probes compute each by the same definition.

The contract. A module of this room, or of another package that extends it (`medvit.registry`), with a `METRIC` is a
metric. It has a name, a title, its meaning in a sentence, a unit, and which way is better; its type says of what it is
computed: `ClassMetric` of the classes of all images, `MaskMetric` of the masks of one image and class, `VolumeMetric`
of the volumes of one class in all images, `FeatureMetric` of the features of images. Reports, `metrics.json`, MLflow
and the terminal take names and meanings from there and know no metric themselves. Adding one is adding a file and its
test (docs/how-to/add-a-metric.md).

The number itself is a pure function of the truth, which comes first, and the prediction. It takes NumPy arrays and
returns a float, or an array with one value per class. It is NaN where it is undefined, as AUROC of a class without a
case, and never warns of that. The docstring of the file gives its range and the source of the definition.

Metrics of classification are written in NumPy: a bootstrap computes them thousands of times, and a call of scikit-learn
spends nearly all of its time on checking the input. Tests compare each with scikit-learn or MONAI. Nothing heavier than
NumPy is imported before a function needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

from medvit.errors import ConfigError
from medvit.metrics._thresholds import counts_by_score
from medvit.metrics.confusion import confusion_matrix
from medvit.registry import occupants

if TYPE_CHECKING:
    from torch import Tensor

LengthUnit = Literal["mm", "px"]
"""Unit of lengths: pixels where an image has no physical scale."""
UNITS = {"": "", "mm": ", mm", "px": ", pixels", "ml": ", mL"}
"""Unit of a metric -> what follows its title."""
PATIENT_PREFIX = "patient_"
"""Before the name of a metric of patients, where that of images stands beside it."""
RESERVED = ("truth", "p", "voxels", "true_voxels", "volume_ml", "true_volume_ml")
"""Columns of `predictions.parquet` that are not metrics."""
LAST = 1000
"""Place of a metric that asks for none."""


@dataclass(frozen=True)
class Classified:
    """Truth (N,) and probabilities (N, L) of N images; `positive` is the index of one of two classes.

    The class an image is given is the most probable one: of two, the one above 0.5.
    """

    truth: Int[Array, "n"]
    probabilities: Float[Array, "n l"]
    classes: Sequence[str]
    positive: int = 1

    @cached_property
    def chosen(self) -> Int[Array, "n"]:
        """The class that each image is given."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @cached_property
    def counts(self) -> Int[Array, "l l"]:
        """The images of each true class (rows) that are given each class (columns)."""
        return confusion_matrix(self.truth, self.chosen, len(self.classes))

    @cached_property
    def by_score(self) -> list[tuple[Float[Array, "t"], Float[Array, "t"]]]:
        """For each of `targets`, its images and the others at each distinct probability of it, in ascending order."""
        return [counts_by_score(self.truth == label, self.probabilities[:, label]) for label in self.targets]

    @property
    def targets(self) -> Sequence[int]:
        """The classes that are held against the rest: the positive one of two, else all."""
        return [self.positive] if len(self.classes) == 2 else range(len(self.classes))


@dataclass(frozen=True)
class MaskPair:
    """Where a class truly is (*S) and where it was found, and the distance of neighboring voxels along each axis."""

    true: Bool[Array, "*s"]
    found: Bool[Array, "*s"]
    spacing: tuple[float, ...]
    tolerance: float
    """Distance within which two surfaces count as one, in the unit of the spacing."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a metric is called, and what it means to a reader of a report."""

    name: str
    """Its key in `metrics.json`, unless it has a unit."""
    title: str
    """Its name in words."""
    meaning: str
    """What it says, in a sentence for those who do not meet it every day."""
    higher_is_better: bool | None
    """None where the best value is neither the highest nor the lowest."""
    unit: Literal["", "mm", "ml"] = ""
    """Unit, which ends its key: mm is px of images without a physical scale, ml is of volumes that have one."""
    place: int = LAST
    """Metrics are listed by ascending place, those of one place by name."""

    task: ClassVar[Literal["classification", "segmentation", "representation"]]
    is_per_image: ClassVar[bool]
    """Whether it is computed for each image, and a report has the mean, or of all images together."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(?!patient_)[a-z][a-z0-9_]*", self.name) or self.name in RESERVED:
            raise ConfigError(
                f"a metric is named {self.name!r}; expected lowercase letters, digits and _, no leading patient_, and "
                f"none of {', '.join(RESERVED)}"
            )

    def key(self, unit: LengthUnit = "mm") -> str:
        """Its key in `metrics.json`, where lengths are in a unit."""
        own = unit if self.unit == "mm" else self.unit
        return f"{self.name}_{own}" if own else self.name

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key it may have."""
        return tuple(dict.fromkeys((self.key("mm"), self.key("px"))))


@dataclass(frozen=True, kw_only=True)
class ClassMetric(Metric):
    """Metric of a classification, over all images."""

    task = "classification"
    is_per_image = False

    of_all: Callable[[Classified], float] | None = None
    """The number for all classes together; of `targets` where it is of one class against the rest."""
    of_each: Callable[[Classified], Float[Array, "l"]] | None = None
    """The numbers (L,) of each class against the rest, given where there are more than two."""
    applies: Callable[[Sequence[str]], bool] = lambda _classes: True
    """Whether `of_all` makes sense for classes of these names."""
    is_of_positive: bool = False
    """Whether it says another thing of the one of two classes than of the other."""
    in_breakdowns: bool = False
    """Whether a report shows it for each level and stratum; `metrics.json` has all."""


@dataclass(frozen=True, kw_only=True)
class MaskMetric(Metric):
    """Metric of a segmentation, for each image and class; NaN where it does not count."""

    task = "segmentation"
    is_per_image = True

    compute: Callable[[MaskPair], float]


@dataclass(frozen=True, kw_only=True)
class VolumeMetric(Metric):
    """Metric of the true volumes (N,) and those found (N,) of a class in N images, in mL."""

    task = "segmentation"
    is_per_image = False

    compute: Callable[[Float[Array, "n"], Float[Array, "n"]], float]


@dataclass(frozen=True, kw_only=True)
class FeatureMetric(Metric):
    """Metric of the features (N, D) of N images, without labels."""

    task = "representation"
    is_per_image = False

    compute: Callable[[Float[Tensor, "n d"]], float]


MetricT = TypeVar("MetricT", bound=Metric)


def metrics(kind: type[MetricT]) -> tuple[MetricT, ...]:
    """Return the metrics of a type in the order in which reports list them."""
    found = (metric for metric in occupants(__name__, "METRIC") if isinstance(metric, kind))
    return tuple(sorted(found, key=lambda metric: (metric.place, metric.name)))


def keys_of(kind: type[Metric]) -> frozenset[str]:
    """Return every key that metrics of a type may have."""
    return frozenset(key for metric in metrics(kind) for key in metric.keys)


def metric_of(key: str) -> Metric | None:
    """Return the metric of a key of `metrics.json`, as `dice.liver` or `patient_auroc`; none where it is not known."""
    own = key.partition(".")[0].removeprefix(PATIENT_PREFIX)
    return next((metric for metric in metrics(Metric) if own in metric.keys), None)


def metric_title(key: str, positive: str = "") -> str:
    """Return a key in words: `dice.liver` is "Dice, liver", with the positive class where it is of one of two."""
    own, _, part = key.partition(".")
    metric, bare = metric_of(key), own.removeprefix(PATIENT_PREFIX)
    unit = "" if metric is None else UNITS[bare.removeprefix(metric.name).removeprefix("_")]
    title = bare if metric is None else metric.title + unit
    of_patients = ", of patients" if own != bare else ""
    of_class = f" (positive: {positive})" if positive and is_of_positive(key) else ""
    return title + of_patients + (f", {part}" if part else "") + of_class


def is_of_positive(key: str) -> bool:
    """Whether a metric, of images or of patients, is that of the positive one of two classes."""
    metric = metric_of(key)
    return "." not in key and isinstance(metric, ClassMetric) and metric.is_of_positive
