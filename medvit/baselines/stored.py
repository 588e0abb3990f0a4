"""Predictions of baselines in a folder: `baselines.json` and a table `NAME.parquet` for each baseline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy import ndarray as Array

from medvit.artifacts import Lineage
from medvit.baselines.kinds import NETWORKS, TrainedBaseline
from medvit.baselines.subject import LabeledSplits
from medvit.errors import DataError
from medvit.evaluation.paired import MetricTable
from medvit.files.atomic import replacing, write_text
from medvit.statistics import Estimate

FACTS = "baselines.json"


@dataclass(frozen=True)
class StoredBaseline:
    """Baseline read from a folder: `table` has the columns of a `predictions.parquet`, and the split of each image."""

    name: str
    title: str
    note: str
    table: MetricTable


@dataclass(frozen=True)
class BaselineFolder:
    """Baselines of a label, or of label maps (`label` is empty), trained on the dataset whose hash is `dataset`.

    `nsd_tolerance_mm` is that of the surface Dice of a segmentation; None for other tasks.
    """

    folder: Path
    label: str
    classes: tuple[str, ...]
    dataset: str
    baselines: tuple[StoredBaseline, ...]
    task: str = "classification"
    nsd_tolerance_mm: float | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of the facts and predictions."""
        digest = hashlib.sha256((self.folder / FACTS).read_bytes())
        for one in self.baselines:
            digest.update((self.folder / f"{one.name}.parquet").read_bytes())
        return digest.hexdigest()

    @classmethod
    def read(cls, folder: Path) -> BaselineFolder:
        """Return the baselines in a folder.

        Raises:
            DataError: If the folder is not an output of baseline, or is damaged.
        """
        if not (folder / FACTS).is_file():
            raise DataError(f"{folder} has no baselines: no {FACTS} in it; give the output of medvit baseline")
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            found = tuple(_read(folder, name, one) for name, one in facts["baselines"].items())
            lineage = Lineage.read(folder)
            label, classes = facts["label"], tuple(facts["classes"])
            task = facts.get("task", "classification")  # earlier versions had no other task
            tolerance_mm = facts.get("nsd_tolerance_mm")
        except (json.JSONDecodeError, KeyError, TypeError, pa.ArrowException, OSError):
            raise DataError(f"{folder} is damaged and cannot be read; run baseline again") from None
        dataset = "" if lineage is None else lineage.inputs.get("dataset", "")
        return cls(folder, label, classes, dataset, found, task, tolerance_mm)

    @property
    def what(self) -> str:
        """Target of the baselines in words."""
        classes = f" with the classes {', '.join(self.classes)}"
        return f"{self.label or 'label maps'}{'' if self.task == 'regression' else classes}"


def write_baselines(
    folder: Path,
    splits: LabeledSplits,
    trained: Sequence[TrainedBaseline],
    metrics: Mapping[str, Mapping[str, Estimate]],
    *,
    tolerance_mm: float,
) -> None:
    """Write the baselines into a folder; `metrics` are those of the test images, keyed by baseline."""
    for one in trained:
        with replacing(folder / f"{one.name}.parquet") as partial:
            pq.write_table(pa.table(table_of(one)), partial)
    facts = {
        "task": splits.task,
        **({"nsd_tolerance_mm": tolerance_mm} if splits.task == "segmentation" else {}),
        "label": splits.label,
        "classes": list(splits.classes),
        "images": {name: len(getattr(splits, name)) for name in ("train", "val", "test")},
        "baselines": {
            one.name: {
                "title": one.title,
                "note": one.note,
                "metrics": {key: found.plain for key, found in metrics[one.name].items()},
            }
            for one in trained
        },
    }
    write_text(folder / FACTS, json.dumps(facts, indent=2, allow_nan=False) + "\n")


def table_of(trained: TrainedBaseline) -> dict[str, Array]:
    """Return the predictions of a baseline with the columns of `predictions.parquet`, and the split of each image."""
    texts = {key: np.array([getattr(row, key) for row in trained.rows]) for key in ("image_id", "patient_id", "split")}
    return {**texts, **trained.columns}


def network_in(folder: Path, dataset: str) -> Path | None:
    """Return the folder of the network among the baselines in a folder; None if the folder has no baselines.

    Raises:
        DataError: If there is no network among them, or they are of another dataset than the one with this hash.
    """
    if not (folder / FACTS).is_file():
        return None
    baselines = BaselineFolder.read(folder)
    if baselines.dataset != dataset:
        raise DataError(f"{folder}: its baselines were trained on another dataset; run medvit baseline on this one")
    found = [folder / one.name for one in baselines.baselines if one.name in NETWORKS]
    if not found:
        raise DataError(f"{folder} has no network among its baselines; run medvit baseline with kinds=[resnet]")
    return found[0]


def network_title(folder: Path) -> str:
    """Return the title of the network among the baselines in a folder; empty without one."""
    if not (folder / FACTS).is_file():
        return ""
    return next((one.title for one in BaselineFolder.read(folder).baselines if one.name in NETWORKS), "")


def _read(folder: Path, name: str, facts: Mapping[str, str]) -> StoredBaseline:
    table = pq.read_table(folder / f"{name}.parquet")
    columns = {column: table[column].to_numpy() for column in table.column_names}
    return StoredBaseline(name, facts["title"], facts["note"], columns)
