"""Baselines beside a model: their metrics on the same images, and the differences of the model from each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medvit.baselines.stored import BaselineFolder, StoredBaseline
from medvit.document import Section, Table
from medvit.errors import DataError
from medvit.evaluation import Evaluation
from medvit.evaluation.paired import paired_differences
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.positive import index_of
from medvit.evaluation.tasks.classification import class_estimates
from medvit.evaluation.tasks.multilabel import label_estimates
from medvit.evaluation.tasks.regression import value_estimates
from medvit.evaluation.tasks.segmentation import mask_estimates
from medvit.metrics import Classified, metric_title
from medvit.statistics import Estimate

TITLE = "Simple baselines on the same images"
SHOWN = {
    "classification": ("auroc", "balanced_accuracy"),
    "ordinal": ("kappa_quadratic", "grade_error", "auroc"),
    "multilabel": ("auroc_macro", "auroc_micro"),
    "regression": ("mae", "r2"),
    "segmentation": ("dice", "hd95_mm", "hd95_px"),
}
"""Metrics in the table of a report for each task, the main one first; `metrics.json` has all of them."""


@dataclass(frozen=True)
class BesideModel:
    """Metrics of a baseline, and the metrics of the model minus those of the baseline."""

    baseline: StoredBaseline
    metrics: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]


def compare_with_baselines(
    folder: BaselineFolder, dataset: str, evaluation: Evaluation, *, tolerance_mm: float, resamples: int, seed: int
) -> tuple[BesideModel, ...]:
    """Return each baseline with its metrics and differences on the images of an evaluation; `dataset` is their hash.

    `tolerance_mm` is that of the surface Dice of a segmentation.

    Raises:
        DataError: If the baselines are of another dataset, label or tolerance, or the evaluated images are not all
            among theirs.
    """
    if folder.dataset != dataset:
        raise DataError(
            f"{folder.folder}: its baselines were trained on another dataset, or on an earlier state of it; run "
            "medvit baseline on the evaluated dataset"
        )
    kind = "classification" if folder.task == "ordinal" else folder.task
    if evaluation.kind != kind or evaluation.classes != folder.classes:
        raise DataError(f"{folder.folder}: its baselines predict {folder.what}; the model predicts something else")
    if folder.nsd_tolerance_mm not in (None, tolerance_mm):
        raise DataError(
            f"{folder.folder}: its baselines have nsd_tolerance_mm={folder.nsd_tolerance_mm:g}, the evaluation "
            f"{tolerance_mm:g}; give the same to both"
        )
    return tuple(_beside(one, folder, evaluation, resamples=resamples, seed=seed) for one in folder.baselines)


def _beside(
    one: StoredBaseline, folder: BaselineFolder, evaluation: Evaluation, *, resamples: int, seed: int
) -> BesideModel:
    places = {image: index for index, image in enumerate(one.table["image_id"])}
    missing = [row.image_id for row in evaluation.rows if row.image_id not in places]
    if missing:
        raise DataError(
            f"{folder.folder}: {len(missing)} of {len(evaluation.rows)} evaluated images were not predicted by the "
            "baselines, which predict the val and test splits"
        )
    chosen = [places[row.image_id] for row in evaluation.rows]
    table = {name: column[chosen] for name, column in one.table.items() if name != "split"}
    positive = index_of(evaluation.positive, evaluation.classes)
    drawing: dict[str, Any] = {"resamples": resamples, "seed": seed}
    differences = paired_differences(evaluation.table, table, folder.classes, positive=positive, **drawing)
    return BesideModel(one, metrics_of_table(table, folder.classes, positive, **drawing), differences)


def metrics_of_table(
    table: Mapping[str, Any], classes: tuple[str, ...], positive: int, *, resamples: int, seed: int
) -> dict[str, Estimate]:
    """Return the metrics of a table of predictions, with intervals over patients; its columns determine the task."""
    drawing: dict[str, Any] = {"resamples": resamples, "seed": seed}
    patients = [str(patient) for patient in table["patient_id"]]
    if any(name.startswith("truth.") for name in table):
        truth, found = (np.stack([table[f"{column}.{name}"] for name in classes], axis=1) for column in ("truth", "p"))
        return label_estimates(truth, found, classes, patients, **drawing)
    if "truth" not in table:
        columns = {name: values for name, values in table.items() if name not in ("image_id", "patient_id", "split")}
        return mask_estimates(columns, patients, **drawing)
    if not any(name.startswith("p.") for name in table):
        return value_estimates(table["truth"], table["predicted"], patients, **drawing)
    probabilities = np.stack([table[f"p.{name}"] for name in classes], axis=1)
    images = Classified(table["truth"].astype(int), probabilities, classes, positive, "predicted" in table)
    return class_estimates(images, patients, **drawing)


def part_of(beside: tuple[BesideModel, ...], task: str, positive: str) -> ReportPart:
    """Return the part of a report with a row for each baseline of a task."""
    names = [name for name in SHOWN[task] if all(name in one.metrics for one in beside)]
    titles = [metric_title(name, positive) for name in names]
    heads = [head for title in titles for head in (title, f"{title}, model - baseline")]
    lines = [
        [one.baseline.title, *(part[name].text for name in names for part in (one.metrics, one.differences))]
        for one in beside
    ]
    sentence = (
        "Each baseline was trained on the train split of the same dataset. A model that is not clearly better than a "
        "baseline may not have learned more than the baseline uses. Brackets are 95 % intervals over patients, and "
        "differences are paired."
    )
    notes = [f"{one.baseline.title}: {one.baseline.note}" for one in beside]
    section = Section(TITLE, [sentence, Table(["baseline", *heads], lines), *notes])
    return ReportPart(ReportPlace.BASELINES, section, name="baselines", numbers=tree_of(beside))


def tree_of(beside: tuple[BesideModel, ...]) -> dict[str, Any]:
    """Return the metrics and differences of all baselines as plain values; undefined ones are null."""
    return {
        one.baseline.name: {
            "note": one.baseline.note,
            "metrics": {name: found.plain for name, found in one.metrics.items()},
            "difference": {name: found.plain for name, found in one.differences.items()},
        }
        for one in beside
    }
