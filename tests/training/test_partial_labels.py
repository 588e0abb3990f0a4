"""Fine-tuning and evaluation with label maps that lack some of the classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import Samples, collate
from medvit.errors import DataError
from medvit.transforms.preprocess import Preprocess
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from tests.training.conftest import with_core
from tests.training.test_runs import finetune_options

CLASSES = ("background", "ball", "core")


@pytest.fixture
def partly(volumes: Path, tmp_path: Path) -> Path:
    """The balls, with a core that every third label map lacks."""
    made = with_core(volumes, tmp_path / "partly", CLASSES, num_test=4, is_without=lambda number: number % 3 == 2)
    rows = [replace(row, annotated=("ball",)) if n % 3 == 2 else row for n, row in enumerate(made)]
    replace(made, rows=tuple(rows)).write()
    return made.folder


def test_a_batch_names_the_annotated_classes_of_each_image(partly: Path) -> None:
    samples = Samples(Manifest.read(partly), Preprocess())
    batch = collate([samples[0], samples[2]]).to("cpu")
    assert batch.annotated is not None
    assert batch.annotated.tolist() == [[True, True, True], [True, True, False]]
    assert collate([samples[0], samples[1]]).annotated is None


def test_unknown_classes_are_neither_learned_nor_scored(partly: Path, tmp_path: Path) -> None:
    made = finetune(output=tmp_path / "model", **finetune_options(partly, largest_components=True))
    assert tuple(made.model["classes"]) == CLASSES
    report = evaluate(
        checkpoint=made.folder, dataset=partly, output=tmp_path / "report", resamples=100, tracking={"enabled": False}
    )
    table = pq.read_table(report.folder / "predictions.parquet").to_pydict()
    partial = [row.annotated is not None for row in Manifest.read(partly).split("test")]
    assert np.isnan(table["true_voxels.core"]).tolist() == partial
    assert np.isfinite(table["true_voxels.ball"]).all()
    notes = json.loads((report.folder / "metrics.json").read_text(encoding="utf-8"))["notes"]
    assert "core is annotated in 3 of 4 images; others do not count" in notes


def test_a_class_that_no_training_image_annotates_is_refused(partly: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(partly)
    rows = tuple(replace(row, annotated=("ball",)) if row.split == "train" else row for row in manifest)
    replace(manifest, rows=rows).write()
    with pytest.raises(DataError, match="the class core is annotated in none of the 5 training images"):
        finetune(output=tmp_path / "model", **finetune_options(partly))
