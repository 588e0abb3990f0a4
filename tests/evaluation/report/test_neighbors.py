"""Nearest training images in the report of evaluate: their labels and pictures, and never the same patient."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medvit.artifacts import Report
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError
from pipelines.evaluate import evaluate
from pipelines.results.embed import embed
from tests.pipelines.results.test_robustness import QUICK, checkpoint
from tests.training.conftest import dataset

OFF: dict[str, Any] = {"device": "cpu", "tracking": {"enabled": False}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with images of two classes in the train and test splits, and its embeddings by an untrained model."""
    folder = tmp_path_factory.mktemp("neighbors")
    manifest = Manifest.read(dataset(folder / "dataset", ndim=2))
    rows = tuple(replace(row, split="train" if n % 2 else "test") for n, row in enumerate(manifest))
    replace(manifest, rows=rows).write()
    checkpoint(folder / "model")
    embed(checkpoint=folder / "model", dataset=folder / "dataset", output=folder / "embeddings", **OFF)
    return folder


def judged(place: Path, output: Path, **options: object) -> Report:
    tree = {"checkpoint": place / "model", "dataset": place / "dataset", "output": output, **QUICK, **options}
    return evaluate(**tree, subgroups=[])


def test_the_worst_errors_are_shown_with_their_nearest_training_images(place: Path, tmp_path: Path) -> None:
    report = judged(place, tmp_path / "report", reference=place / "embeddings", neighbors=3)
    shown = json.loads((report.folder / "metrics.json").read_text())["neighbors"]["shown"]
    rows = {row.image_id: row for row in Manifest.read(place / "dataset")}
    assert shown
    for one in shown:
        near = [rows[each["image"]] for each in one["neighbors"]]
        assert len(near) == 3
        assert {row.split for row in near} == {"train"}
        assert rows[one["image"]].patient_id not in {row.patient_id for row in near}
        cosines = [each["cosine"] for each in one["neighbors"]]
        assert cosines == sorted(cosines, reverse=True)
        assert [each["labels"] for each in one["neighbors"]] == [dict(row.labels) for row in near]
    page = (report.folder / "report.html").read_text()
    assert "Nearest training images" in page
    assert "Errors, left, and their nearest training images" in page


def test_without_the_training_images_pseudonyms_and_labels_are_shown(place: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(place / "dataset")
    only_test = tmp_path / "dataset"
    only_test.mkdir()
    (only_test / "images").symlink_to(place / "dataset" / "images")
    replace(manifest, rows=tuple(row for row in manifest if row.split == "test"), folder=only_test).write()
    report = judged(place, tmp_path / "report", dataset=only_test, reference=place / "embeddings")
    page = (report.folder / "report.html").read_text()
    assert "so only their pseudonyms and labels are shown" in page
    assert "Errors, left, and their nearest training images" not in page


def test_embeddings_of_another_model_are_refused(place: Path, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other", seed=4)
    with pytest.raises(ConfigError, match="was embedded with another checkpoint"):
        judged(place, tmp_path / "report", checkpoint=other, reference=place / "embeddings")
