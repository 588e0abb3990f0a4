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
from medvit.baselines.kinds import TITLES, TrainedBaseline
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
    """Baselines of a label, trained on the dataset whose hash is `dataset`."""

    folder: Path
    label: str
    classes: tuple[str, ...]
    dataset: str
    baselines: tuple[StoredBaseline, ...]

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
        except (json.JSONDecodeError, KeyError, TypeError, pa.ArrowException, OSError):
            raise DataError(f"{folder} is damaged and cannot be read; run baseline again") from None
        return cls(folder, label, classes, "" if lineage is None else lineage.inputs.get("dataset", ""), found)


def write_baselines(
    folder: Path,
    splits: LabeledSplits,
    trained: Sequence[TrainedBaseline],
    metrics: Mapping[str, Mapping[str, Estimate]],
) -> None:
    """Write the baselines into a folder; `metrics` are those of the test images, keyed by baseline."""
    for one in trained:
        with replacing(folder / f"{one.name}.parquet") as partial:
            pq.write_table(pa.table(dict(table_of(one, splits))), partial)
    facts = {
        "label": splits.label,
        "classes": list(splits.classes),
        "images": {name: len(getattr(splits, name)) for name in ("train", "val", "test")},
        "baselines": {
            one.name: {
                "title": TITLES[one.name],
                "note": one.note,
                "metrics": {key: found.plain for key, found in metrics[one.name].items()},
            }
            for one in trained
        },
    }
    write_text(folder / FACTS, json.dumps(facts, indent=2, allow_nan=False) + "\n")


def table_of(trained: TrainedBaseline, splits: LabeledSplits) -> dict[str, Array]:
    """Return the predictions of a baseline with the columns of `predictions.parquet`, and the split of each image."""
    texts = {key: np.array([getattr(row, key) for row in trained.rows]) for key in ("image_id", "patient_id", "split")}
    probabilities = {f"p.{name}": trained.probabilities[:, index] for index, name in enumerate(splits.classes)}
    return {**texts, "truth": splits.truth(trained.rows), **probabilities}


def _read(folder: Path, name: str, facts: Mapping[str, str]) -> StoredBaseline:
    table = pq.read_table(folder / f"{name}.parquet")
    columns = {column: table[column].to_numpy() for column in table.column_names}
    return StoredBaseline(name, facts["title"], facts["note"], columns)
