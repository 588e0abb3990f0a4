"""A label table with a class, a grade and a number, some missing, through all stages."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvit.artifacts import Checkpoint
from medvit.models.interchange import to_timm
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.predict import predict
from tests.training.ensembles.test_folds import QUICK
from tests.training.test_runs import interrupt, same_weights

OFF = {"enabled": False}
TASKS = {"diagnosis": "classification", "density": "ordinal", "age": "regression"}
NAMES = ["diagnosis.benign", "diagnosis.malignant", "density.1", "density.2", "density.3", "age"]
SPLITS = ["train"] * 10 + ["val"] * 6 + ["test"] * 8


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures, brighter if malignant and if the patient is older; a third of the ages and densities is missing."""
    folder = tmp_path_factory.mktemp("columns")
    (folder / "source").mkdir()
    generator, lines = np.random.default_rng(0), [["file", "patient", "split", *TASKS]]
    for number, split in enumerate(SPLITS):
        mean, grade = 80 + 80 * (number % 2), 1 + number % 3
        pixels = generator.normal(mean, 10 * grade, (16, 16)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "source" / f"{number}.png")
        labels = ["benign", "malignant"][number % 2], grade, pixels.mean() / 2
        cells = ["" if place and (number + place) % 4 == 0 else label for place, label in enumerate(labels)]
        lines.append([f"{number}.png", f"p{number}", split, *cells])
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(lines)
    labeling = {"table": folder / "labels.csv", "positive": {"diagnosis": "benign"}}
    common = {"key": folder / "site.key", "tracking": OFF, "name": "test"}
    (folder / "site.key").write_bytes(bytes(32))  # a random key would order the training images differently in each run
    (folder / "site.key").chmod(0o600)
    ingest(source=folder / "source", dataset=folder / "dataset", labeling=labeling, **common)
    finetune(output=folder / "model", **training(folder))
    return folder


def training(folder: Path) -> dict[str, object]:
    trainer = {"epochs": 2, "steps_per_epoch": 12, "precision": "32-true"}
    preprocess = {"kind": "image", "intensity": {"method": "range"}}
    labels = {"dataset": folder / "dataset", "tasks": TASKS, "task_weights": {"age": 0.5}}
    return QUICK | labels | {"trainer": trainer, "preprocess": preprocess, "optim": {"lr": 3e-3}}


def test_every_column_is_evaluated(place: Path, tmp_path: Path) -> None:
    given = {"checkpoint": place / "model", "dataset": place / "dataset", "resamples": 100, "tracking": OFF}
    report = evaluate(output=tmp_path / "report", levels=("image", "patient"), **given)
    assert report.metrics["auroc.diagnosis"] == 1.0
    assert {"kappa_quadratic.density", "mae.age"} <= set(report.metrics)
    stored = json.loads((report.folder / "metrics.json").read_text())
    assert {"diagnosis: By level", "density: By level"} <= set(stored["breakdowns"])
    assert any("of 8 images have no age" in note for note in stored["notes"])
    assert stored["facts"]["Positive classes"] == "benign (diagnosis)"


def test_every_column_is_predicted(place: Path, tmp_path: Path) -> None:
    given = {"checkpoint": place / "model", "source": place / "source", "key": place / "site.key", "tracking": OFF}
    made = predict(output=tmp_path / "predictions", **given)
    assert made.num_done == 24
    with (made.folder / "predictions.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["class"] for line in lines[:7]] == [*NAMES[:-1], "density", "age"]
    for line in lines:
        is_number = line["class"] in ("density", "age")
        filled, empty = ("value", "probability") if is_number else ("probability", "value")
        assert (line[filled] != "", line[empty]) == (True, "")
    assert len(list(made.folder.glob("*/preview*.png"))) == 24


def test_the_backbone_of_several_columns_is_exported(place: Path, tmp_path: Path) -> None:
    assert to_timm(Checkpoint.load(place / "model"), tmp_path / "timm").is_dir()


def test_a_resumed_model_of_columns_is_that_of_the_whole_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(finetune, monkeypatch, 18, output=tmp_path / "cut", **training(place))
    resumed = finetune(output=tmp_path / "cut", resume=True, **training(place))
    assert same_weights(Checkpoint.load(place / "model"), Checkpoint.load(resumed.folder))
