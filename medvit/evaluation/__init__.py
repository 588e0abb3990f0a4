"""Evaluation: metrics with 95 % intervals, paired comparison, aggregation to patients, a self-contained report.

The contract. `selection` chooses the images of a split and `caveats` says what a reader must know of them; `options`
resolves what follows from model and images; `run` predicts and measures, which gives an `Evaluation`; `subject` and
`examples` are the other parts of what `report` writes.

Intervals are 95 % percentile bootstraps over patients, never over images: two images of one patient are not two
witnesses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.patients import PatientCount
from medvit.records import Row


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; not a number where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "not defined" if np.isnan(self.value) else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class MetricRow:
    """Metrics of a part of what was evaluated: `num_items` images, eyes or the like, and their patients."""

    name: str
    num_items: int
    patients: PatientCount
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Breakdown:
    """The same metrics in several parts, side by side, and what a reader must know of them."""

    title: str
    note: str
    lines: tuple[MetricRow, ...]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    `metrics` with intervals, `columns` a value an image (the columns of `predictions.parquet`), `rows` the images in
    the same order, `notes` what a reader must know: what was left out and why; `breakdowns` the metrics of parts.
    """

    kind: str
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    metrics: Mapping[str, Estimate]
    columns: Mapping[str, Float[Array, "n"]]
    notes: tuple[str, ...] = ()
    breakdowns: tuple[Breakdown, ...] = ()
    positive: str = ""
    """Of two classes, the one that sensitivity, specificity and average precision are of."""

    @property
    def truth(self) -> Int[Array, "n"]:
        """The true class of each image, by its index; of a classification."""
        return self.columns["truth"].astype(int)

    @property
    def probabilities(self) -> Float[Array, "n l"]:
        """The probability of each class; of a classification."""
        return np.stack([self.columns[f"p.{name}"] for name in self.classes], axis=1)

    @property
    def table(self) -> Mapping[str, Array]:
        """The columns of `predictions.parquet`: the pseudonyms of each image and its patient, then `columns`."""
        images, patients = [row.image_id for row in self.rows], [row.patient_id for row in self.rows]
        return {"image_id": np.array(images), "patient_id": np.array(patients), **self.columns}
