"""Metrics of predictions, one per module, so that training, evaluation and probes share each definition.

A metric is a module of this package, or of another package that extends it (`medvit.registry`), with a constant
`METRIC`. It has a name, a title, an explanation in one sentence, a unit, and whether higher or lower is better. Its
type determines its input: a `ClassMetric` takes the classes of all images (those of probabilities are in
`medvit.metrics.calibration`), a `LabelMetric` several labels (`medvit.metrics.labels`), a `ValueMetric` numbers
(`medvit.metrics.values`), a `SurvivalMetric` times to an event (`medvit.metrics.survival`), a `MaskMetric` the masks of
one class in one image (those of connected components are in `medvit.metrics.lesions`), a `VolumeMetric` the volumes of
one class in all images (`medvit.metrics.volumes`), a `PooledMetric` the pixels of one class over all images together
(`medvit.metrics.pooled`), and a `FeatureMetric` the features of images.
Reports, `metrics.json`, MLflow and the terminal use these names and explanations and contain no others. To add a
metric, add a file and its test (docs/how-to/add-a-metric.md).

The value is computed by a pure function of the truth (first argument) and the prediction. The function accepts NumPy
arrays and returns a float, or an array with one value per class. If the value is undefined, as the AUROC of a class
without cases, it is NaN without a warning. The docstring of the file states its range and the source of the definition.

Classification metrics are written in NumPy, because a bootstrap computes them thousands of times, and scikit-learn
spends nearly all of the time of a call on checking the input. Tests compare each metric with scikit-learn or MONAI.
Libraries larger than NumPy are imported only in the functions that use them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

from medvit.errors import ConfigError
from medvit.metrics._components import LesionCounts, count_lesions
from medvit.metrics._event_pairs import EventPairs, pairs_of_events
from medvit.metrics._probability_bins import BrierParts, brier_parts
from medvit.metrics._thresholds import counts_by_score
from medvit.metrics.confusion import confusion_matrix, median_grade, most_probable_class
from medvit.registry import occupants
from medvit.statistics import MetricSample
from medvit.survival import KaplanMeier

if TYPE_CHECKING:
    from torch import Tensor

LengthUnit = Literal["mm", "px"]
"""Unit of lengths: pixels if an image has no physical scale."""
UNITS = {"": "", "mm": ", mm", "px": ", pixels", "ml": ", mL"}
"""Unit of a metric -> suffix of its title."""
PATIENT_PREFIX = "patient_"
"""Prefix of the key of a metric computed over patients; without the prefix, it is computed over images."""
COUNTED = ("voxels", "true_voxels", "overlap_voxels", "counted_voxels")
"""Columns with numbers of voxels: of a class in the prediction, in the truth and in both, and of all not ignored."""
RESERVED = ("truth", "event", "p", "predicted", *COUNTED, "volume_ml", "true_volume_ml")
"""Columns of `predictions.parquet` that are not metrics."""
ROOMS = (
    __name__,
    *(f"{__name__}.{room}" for room in ("calibration", "labels", "lesions", "pooled", "survival", "values", "volumes")),
)
"""Packages with metrics."""
LAST = 1000
"""Position in lists of a metric that does not set one: after all others."""


@dataclass(frozen=True)
class Classified:
    """True classes (N,) and predicted probabilities (N, L) of N images.

    If there are two classes, `positive` is the index of the positive one. The predicted class of an image is the most
    probable one; of two classes, the one with a probability above 0.5. `is_graded` is true for an ordinal
    classification, whose predicted class is the median grade (`medvit.metrics.confusion`).
    """

    truth: Int[Array, "n"]
    probabilities: Float[Array, "n l"]
    classes: Sequence[str]
    positive: int = 1
    is_graded: bool = False

    def at(self, indices: Int[Array, "m"]) -> Classified:
        """Return the images at these indices."""
        return replace(self, truth=self.truth[indices], probabilities=self.probabilities[indices])

    @cached_property
    def chosen(self) -> Int[Array, "n"]:
        """Predicted class of each image."""
        return (median_grade if self.is_graded else most_probable_class)(self.probabilities)

    @cached_property
    def counts(self) -> Int[Array, "l l"]:
        """Number of images of each true class (rows) with each predicted class (columns)."""
        return confusion_matrix(self.truth, self.chosen, len(self.classes))

    @cached_property
    def by_score(self) -> list[tuple[Float[Array, "t"], Float[Array, "t"]]]:
        """Numbers of cases and of controls at each distinct probability (ascending), one pair for each of `targets`."""
        return [counts_by_score(self.truth == label, self.probabilities[:, label]) for label in self.targets]

    @cached_property
    def brier_parts(self) -> BrierParts:
        """Reliability, resolution and uncertainty of the probabilities."""
        return brier_parts(self.truth, self.probabilities)

    @property
    def targets(self) -> Sequence[int]:
        """Classes for one-vs-rest metrics: the positive class if there are two classes, else every class."""
        return [self.positive] if len(self.classes) == 2 else range(len(self.classes))


@dataclass(frozen=True)
class Outcomes:
    """Times (N,) of N images, whether the event was observed at them, and predicted survival curves.

    Images without the event are censored: they were without it up to their time.
    """

    times: Float[Array, "n"]
    events: Bool[Array, "n"]
    expected: Float[Array, "n"]
    """Predicted mean time without the event, up to the last time of the model."""
    grid: Float[Array, "t"]
    """Equally spaced times up to the last time of the model."""
    curves: Float[Array, "n t"]
    """Predicted survival at the times of the grid."""
    horizons: Float[Array, "h"]
    """Times at which metrics of single times are computed."""
    at_horizons: Float[Array, "n h"]
    """Predicted survival at the horizons."""

    def at(self, indices: Int[Array, "m"]) -> Outcomes:
        """Return the outcomes of the images at these indices."""
        return replace(
            self,
            times=self.times[indices],
            events=self.events[indices],
            expected=self.expected[indices],
            curves=self.curves[indices],
            at_horizons=self.at_horizons[indices],
        )

    @cached_property
    def uncensored(self) -> KaplanMeier:
        """Probability of not being censored up to each time."""
        return KaplanMeier.of_censoring(self.times, self.events)

    @cached_property
    def pairs(self) -> EventPairs:
        """Pairs of images of which one is known to have the event before the other."""
        return pairs_of_events(self.times, self.events, self.expected)


@dataclass(frozen=True)
class MaskPair:
    """True and predicted mask (*S) of a class, and the voxel size along each axis."""

    true: Bool[Array, "*s"]
    found: Bool[Array, "*s"]
    spacing: tuple[float, ...]
    tolerance: float
    """Distance within which two surfaces count as one, in the unit of the spacing."""

    @cached_property
    def lesions(self) -> LesionCounts:
        """Numbers of connected components that are found, missed and false."""
        return count_lesions(self.true, self.found)


@dataclass(frozen=True)
class PixelCounts:
    """Numbers of pixels or voxels of a class, over all images together; ignored ones do not count."""

    overlap: float
    """Pixels of the class in truth and prediction."""
    true: float
    """Pixels of the class in the truth."""
    found: float
    """Pixels of the class in the prediction."""
    counted: float
    """All pixels that are not ignored."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Base of metrics: key, title, and explanation for readers of a report."""

    name: str
    """Key in `metrics.json`, without the suffix for the unit."""
    title: str
    """Name of the metric in words."""
    meaning: str
    """Explanation in one sentence, for readers who rarely use the metric."""
    higher_is_better: bool | None
    """Whether higher is better; None if the best value is between the extremes."""
    unit: Literal["", "mm", "ml"] = ""
    """Unit of the values, appended to the key. If an image has no physical scale, mm becomes px; ml requires a scale.
    """
    place: int = LAST
    """Position in lists, which are sorted by ascending position, then by name."""

    task: ClassVar[Literal["classification", "multilabel", "regression", "survival", "segmentation", "representation"]]
    is_per_image: ClassVar[bool]
    """Whether the metric is computed per image (reports then show the mean) instead of over all images together."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(?!patient_)[a-z][a-z0-9_]*", self.name) or self.name in RESERVED:
            raise ConfigError(
                f"a metric is named {self.name!r}; expected lowercase letters, digits and _, no leading patient_, and "
                f"none of {', '.join(RESERVED)}"
            )

    def key(self, unit: LengthUnit = "mm") -> str:
        """Return the key of the metric in `metrics.json`; `unit` replaces mm if the metric is a length."""
        own = unit if self.unit == "mm" else self.unit
        return f"{self.name}_{own}" if own else self.name

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that the metric can have."""
        return tuple(dict.fromkeys((self.key("mm"), self.key("px"))))


@dataclass(frozen=True, kw_only=True)
class ClassMetric(Metric):
    """Classification metric, computed over all images."""

    task = "classification"
    is_per_image = False

    of_all: Callable[[Classified], float] | None = None
    """Function that computes one value over all classes, or over `targets` for a one-vs-rest metric."""
    of_each: Callable[[Classified], Float[Array, "l"]] | None = None
    """Function that computes the values (L,) of each class against the rest; used for more than two classes."""
    applies: Callable[[Sequence[str]], bool] = lambda _classes: True
    """Function that returns whether `of_all` makes sense for classes with the given names."""
    is_of_positive: bool = False
    """Whether the value depends on which of two classes is positive."""
    sample: Callable[[Classified, int, Sequence[str]], MetricSample] | None = None
    """Function of the images, the index of a class and the patient of each image. It returns the sample from which the
    metric of this class has its interval and paired test in closed form. Without it, both are bootstraps.
    """
    parts: Callable[[Classified, Sequence[str]], Sequence[MetricSample]] | None = None
    """Function of the images and the patient of each. It returns the samples of classes whose mean is the metric, so
    that it has an interval even if the value is the same in all resamples.
    """
    in_breakdowns: bool = False
    """Whether reports show the metric for each aggregation level and stratum; `metrics.json` has it in any case."""


@dataclass(frozen=True, kw_only=True)
class ValueMetric(Metric):
    """Metric of the true and predicted numbers (N,) of N images."""

    task = "regression"
    is_per_image = False

    compute: Callable[[Float[Array, "n"], Float[Array, "n"]], float]
    of_each: Callable[[Float[Array, "n"], Float[Array, "n"]], Float[Array, "n"]] | None = None
    """Function that computes the value of each image, if the metric is the mean of these values."""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """Smallest and largest possible value."""


@dataclass(frozen=True, kw_only=True)
class LabelMetric(Metric):
    """Metric over all labels of N images: truth (N, L), which is 1, 0 or NaN if unknown, and probabilities (N, L)."""

    task = "multilabel"
    is_per_image = False

    compute: Callable[[Float[Array, "n l"], Float[Array, "n l"]], float]
    sample: Callable[[Float[Array, "n l"], Float[Array, "n l"], Sequence[str]], MetricSample] | None = None
    """Function of truth, probabilities and the patient of each image. It returns the sample from which the metric has
    its interval and paired test in closed form. Without it, both are bootstraps.
    """
    parts: Callable[[Float[Array, "n l"], Float[Array, "n l"], Sequence[str]], Sequence[MetricSample]] | None = None
    """Function of the same arguments. It returns the samples of labels whose mean is the metric, as for a
    `ClassMetric`.
    """


@dataclass(frozen=True, kw_only=True)
class SurvivalMetric(Metric):
    """Metric of predicted survival curves and the outcomes of N images, of which some are censored."""

    task = "survival"
    is_per_image = False

    of_all: Callable[[Outcomes], float] | None = None
    """Function that computes one value over all times."""
    of_each: Callable[[Outcomes], Float[Array, "h"]] | None = None
    """Function that computes a value for each horizon."""


@dataclass(frozen=True, kw_only=True)
class MaskMetric(Metric):
    """Segmentation metric, computed per image and class; the mean skips images for which it is NaN."""

    task = "segmentation"
    is_per_image = True

    compute: Callable[[MaskPair], float]
    bounds: tuple[float, float] = (0.0, math.inf)
    """Smallest and largest possible value."""


@dataclass(frozen=True, kw_only=True)
class VolumeMetric(Metric):
    """Metric of the true and predicted volumes (N,) of a class in N images, in mL."""

    task = "segmentation"
    is_per_image = False

    compute: Callable[[Float[Array, "n"], Float[Array, "n"]], float]


@dataclass(frozen=True, kw_only=True)
class PooledMetric(Metric):
    """Metric of the pixels of a class over all images together; large structures count more than small ones."""

    task = "segmentation"
    is_per_image = False

    compute: Callable[[PixelCounts], float]


@dataclass(frozen=True, kw_only=True)
class FeatureMetric(Metric):
    """Metric of the features (N, D) of N images, computed without labels."""

    task = "representation"
    is_per_image = False

    compute: Callable[[Float[Tensor, "n d"]], float]


MetricT = TypeVar("MetricT", bound=Metric)


def metrics(kind: type[MetricT]) -> tuple[MetricT, ...]:
    """Return the metrics of a type in the order in which reports list them."""
    everything = (metric for room in ROOMS for metric in occupants(room, "METRIC"))
    found = (metric for metric in everything if isinstance(metric, kind))
    return tuple(sorted(found, key=lambda metric: (metric.place, metric.name)))


def keys_of(kind: type[Metric]) -> frozenset[str]:
    """Return the keys that metrics of a type can have in `metrics.json`."""
    return frozenset(key for metric in metrics(kind) for key in metric.keys)


def metric_of(key: str) -> Metric | None:
    """Return the metric of a key of `metrics.json`, such as `dice.liver` or `patient_auroc`; None if unknown."""
    own = key.partition(".")[0].removeprefix(PATIENT_PREFIX)
    return next((metric for metric in metrics(Metric) if own in metric.keys), None)


def is_lower_better(key: str) -> bool:
    """Return whether lower values of a metric are better, such as those of an error; false if unknown."""
    metric = metric_of(key)
    return metric is not None and metric.higher_is_better is False


def metric_title(key: str, positive: str = "") -> str:
    """Return the title of a metric key, such as "Dice, liver" for `dice.liver`.

    If there are two classes, the title names the positive one.
    """
    own, _, part = key.partition(".")
    metric, bare = metric_of(key), own.removeprefix(PATIENT_PREFIX)
    unit = "" if metric is None else UNITS[bare.removeprefix(metric.name).removeprefix("_")]
    title = bare if metric is None else metric.title + unit
    of_patients = ", of patients" if own != bare else ""
    of_class = f" (positive: {positive})" if positive and is_of_positive(key) else ""
    return title + of_patients + (f", {part}" if part else "") + of_class


def is_of_positive(key: str) -> bool:
    """Return whether a metric (over images or patients) depends on which of two classes is the positive one."""
    metric = metric_of(key)
    return "." not in key and isinstance(metric, ClassMetric) and metric.is_of_positive
