"""Out-of-fold predictions: each patient is predicted by the models of an ensemble not trained on that patient."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from medvit.artifacts import Checkpoint
from medvit.config import Tree
from medvit.dataset.manifest import Manifest
from medvit.dataset.store import Store
from medvit.errors import DataError
from medvit.files.atomic import replacing, write_text
from medvit.inference.predicted_rows import predicted
from medvit.inference.predictor import Predictor, calibrated, numbers_of, prediction_of
from medvit.leakage.seen_patients import patients_among
from medvit.models.ensemble import Ensemble
from medvit.models.image import ModelConfig, has_truth
from medvit.records import Kind, Row
from medvit.training.ensembles.folds import EnsembleMember
from medvit.types import Image, Prediction

OUT_OF_FOLD = "out_of_fold"
"""Folder of the out-of-fold predictions in the checkpoint of an ensemble."""
DESCRIPTION, TABLE, MASKS = "description.json", "predictions.parquet", "masks"


def write_out_of_fold(
    checkpoint: Checkpoint,
    manifest: Manifest,
    members: Sequence[EnsembleMember],
    labels: Sequence[str],
    failures: list[str],
    learned: Collection[str] = (),
) -> Path:
    """Predict the images of the train and val splits that have a truth, and write the folder of the predictions.

    The predictions of the models that were not trained on a patient, one for each seed, are averaged. A line is
    added to `failures` for each image that fails. `learned` are the digests of the patients that the initial weights
    were trained on (`medvit.leakage.seen_patients`); the number of those that are predicted is recorded.

    Raises:
        DataError: If all images fail.
    """
    folder = checkpoint.folder / OUT_OF_FOLD
    if (folder / TABLE).is_file():
        return folder
    predictor = Predictor(checkpoint)
    holders = _holders(manifest, members, labels)
    rows = [row for row in manifest if row.image_id in holders and _has_truth(row, predictor)]
    store = Store(folder / MASKS)

    def predict(image: Image) -> Prediction:
        assert isinstance(predictor.model, Ensemble), "folds make an ensemble"
        assert image.row is not None, "images of a dataset have a row"
        predictor.model.active = holders[image.row.image_id]
        return predictor(image)

    lines, done = [], []
    for row, _, prediction in predicted(manifest, rows, predict, failures, title="Predicting out of fold"):
        lines.append(_line(row, holders[row.image_id], prediction, store))
        done.append(row)
    if not lines:
        raise DataError(f"{manifest.folder}: out-of-fold prediction of all {len(rows)} images failed")
    folder.mkdir(exist_ok=True)
    description = {
        "dataset": manifest.hash,
        "checkpoint": checkpoint.hash,
        "model": checkpoint.model,
        "num_pretrained": len(patients_among(learned, done)),
    }
    write_text(folder / DESCRIPTION, json.dumps(description, indent=2, sort_keys=True) + "\n")
    with replacing(folder / TABLE) as partial:
        pq.write_table(pa.Table.from_pylist(lines), partial)
    return folder


@dataclass(frozen=True)
class StoredPredictions:
    """Stored predictions of the images of a dataset, used in place of the models that made them."""

    folder: Path
    config: ModelConfig
    dataset: str
    """Hash of the dataset."""
    model_hash: str
    """Hash of the checkpoint of the ensemble."""
    lines: Mapping[str, Mapping[str, Any]]
    """Image id -> line of the table."""
    num_pretrained: int = 0
    """Number of predicted patients that the initial weights of the models were trained on; 0 in earlier versions."""
    device = torch.device("cpu")

    @classmethod
    def read(cls, folder: Path) -> StoredPredictions:
        """Return the predictions in a folder.

        Raises:
            DataError: If the folder does not contain out-of-fold predictions, or is damaged.
        """
        missing = [name for name in (DESCRIPTION, TABLE) if not (folder / name).is_file()]
        if missing:
            raise DataError(
                f"{folder} has no {' and no '.join(missing)}; give the folder {OUT_OF_FOLD} of a model trained "
                "with folds"
            )
        try:
            description: Tree = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            lines = {line["image_id"]: line for line in pq.read_table(folder / TABLE).to_pylist()}
            model, hashes = description["model"], (description["dataset"], description["checkpoint"])
        except (json.JSONDecodeError, KeyError, TypeError, pa.ArrowException, OSError):
            raise DataError(f"{folder} is damaged and cannot be read; run finetune again") from None
        config = ModelConfig.parse_saved(model, source=str(folder))
        return cls(folder, config, *hashes, lines, int(description.get("num_pretrained", 0)))

    def images_of(self, manifest: Manifest) -> Manifest:
        """Return the images that were predicted.

        Raises:
            DataError: If the predictions were made on another dataset.
        """
        if manifest.hash != self.dataset:
            raise DataError(
                f"{self.folder} has predictions of another dataset than {manifest.folder}, or of an earlier state of "
                "it; give the dataset that the model was trained on"
            )
        return manifest.filter(lambda row: row.image_id in self.lines)

    @property
    def hash(self) -> str:
        """SHA-256 of the description and the table."""
        digest = hashlib.sha256((self.folder / DESCRIPTION).read_bytes())
        digest.update((self.folder / TABLE).read_bytes())
        return digest.hexdigest()

    @property
    def kind(self) -> Kind:
        """Kind of the predicted images."""
        return self.config.applies_to.kind

    def __call__(self, image: Image) -> Prediction:
        """Return the stored prediction of an image of the dataset."""
        assert image.row is not None, "images of a dataset have a row"
        line = self.lines[image.row.image_id]
        if self.config.tasks:
            return prediction_of(self.config.kind, self.config.target, np.array(line["of_labels"], dtype=np.float32))
        if line.get("value") is not None:  # earlier versions wrote no such column
            return Prediction(self.config.classes, value=line["value"])
        if line["mask"] is None:
            numbers = np.array(line["probabilities"], dtype=np.float32)
            return calibrated(self.config, prediction_of(self.config.kind, self.config.target, numbers))
        return Prediction(self.config.classes, mask=Store(self.folder / MASKS).get(line["mask"]), affine=image.affine)


def _holders(
    manifest: Manifest, members: Sequence[EnsembleMember], labels: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Return a mapping from image id to the indices of the models that were not trained on that image."""
    found: dict[str, list[int]] = defaultdict(list)
    for member in members:
        for row in member.split(manifest, *labels):
            if row.split == "val":
                found[row.image_id].append(member.number)
    return {name: tuple(numbers) for name, numbers in found.items()}


def _has_truth(row: Row, predictor: Predictor) -> bool:
    model = predictor.config
    return row.kind == predictor.kind and has_truth(row, model)


def _line(row: Row, models: Sequence[int], found: Prediction, store: Store) -> dict[str, Any]:
    several = {"of_labels": numbers_of(found).tolist()} if found.by_label else {}
    return several | {
        "image_id": row.image_id,
        "models": [number + 1 for number in models],
        "probabilities": None if found.probabilities is None else found.probabilities.tolist(),
        "value": found.value,
        "mask": None if found.mask is None else store.put(found.mask),
    }
