"""Evaluation: metrics with 95 % intervals, paired comparison, aggregation to patients, a self-contained report.

`selection` chooses the images of a split, and `caveats` collects warnings about them. `options` infers options from
model and images. `run` predicts and computes metrics, which gives an `Evaluation`. `report` writes the evaluation,
together with its `subject`, its `examples` and the parts (`part`) that other modules contribute.

Intervals are 95 % percentile bootstraps over patients, never over images: two images of one patient are not
independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.evaluation.subgroups import SubgroupAnalysis
from medvit.patients import PatientCount
from medvit.records import Row
from medvit.statistics import Estimate


@dataclass(frozen=True)
class MetricRow:
    """Metrics of a subset of the evaluation, with `num_items` images (or eyes, visits, patients) and their patients."""

    name: str
    num_items: int
    patients: PatientCount
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Breakdown:
    """Table with the same metrics for several subsets of the images: one row per subset, and a note for the reader."""

    title: str
    note: str
    lines: tuple[MetricRow, ...]


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    `metrics` have intervals. `columns` contain values for each image (for `predictions.parquet`), in the order of
    `rows`. `notes` are for readers of the report, for example about excluded images. `breakdowns` contain the metrics
    of subsets.
    """

    kind: str
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    metrics: Mapping[str, Estimate]
    columns: Mapping[str, Float[Array, "n"]]
    notes: tuple[str, ...] = ()
    breakdowns: tuple[Breakdown, ...] = ()
    positive: str = ""
    """Positive class of a model with two classes, to which sensitivity, specificity and average precision refer."""
    is_graded: bool = False
    """Whether this is an ordinal classification, whose predicted class is the median grade."""
    horizons: tuple[float, ...] = ()
    """Times at which metrics of single times, such as `auroc_at`, are computed for survival."""
    subgroups: tuple[SubgroupAnalysis, ...] = ()
    """Metrics by attributes of the images, with the gaps between each group and all other images."""
    parts: Mapping[str, Evaluation] = field(default_factory=dict)
    """Evaluations of the labels of a multi-task model, each on the images with this label."""

    @property
    def truth(self) -> Int[Array, "n"]:
        """Index of the true class of each image; only for a classification."""
        return self.columns["truth"].astype(int)

    @property
    def label_truth(self) -> Float[Array, "n l"]:
        """Truth of each label (columns) of each image (rows): 1, 0, or NaN if unknown; only for several labels."""
        return np.stack([self.columns[f"truth.{name}"] for name in self.classes], axis=1)

    @property
    def probabilities(self) -> Float[Array, "n l"]:
        """Probability of each class (columns) for each image (rows); for survival, the survival at each time."""
        return np.stack([self.columns[f"p.{name}"] for name in self.classes], axis=1)

    @property
    def patients(self) -> list[str]:
        """Patient of each image."""
        return [row.patient_id for row in self.rows]

    @property
    def table(self) -> Mapping[str, Array]:
        """Columns of `predictions.parquet`: the pseudonyms of each image and its patient, then `columns`."""
        images = [row.image_id for row in self.rows]
        return {"image_id": np.array(images), "patient_id": np.array(self.patients), **self.columns}
