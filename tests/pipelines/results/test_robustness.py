"""Robustness as a stage: scores under every condition, a reference on the same images, and refused options."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.models.image import Model, ModelConfig
from medvit.transforms.preprocess import Preprocess
from pipelines.evaluate import evaluate
from pipelines.results.robustness import robustness
from tests.training.conftest import dataset

VIT = {"name": "vit", "patch_size": 8, "width": 12, "depth": 1, "heads": 2, "channels": 1}
QUICK: dict[str, Any] = {"resamples": 100, "tracking": {"enabled": False}, "device": "cpu"}


def checkpoint(folder: Path, *, ndim: int = 2, seed: int = 0, classes: tuple[str, ...] = ("dark", "bright")) -> Path:
    """An untrained model: its predictions are poor, but always the same."""
    torch.manual_seed(seed)
    config = ModelConfig.parse(
        {
            "kind": "segmentation" if ndim == 3 else "classification",
            "backbone": {**VIT, "ndim": ndim},
            "peft": {"name": "full"},
            "head": {"name": "dense", "channels": 4} if ndim == 3 else {"name": "linear"},
            "classes": ("background", "ball") if ndim == 3 else classes,
            "label": "" if ndim == 3 else "label",
        }
    )
    chain = Preprocess.parse({"kind": "volume" if ndim == 3 else "image", "channels": 1}).tree()
    return Checkpoint(folder, config.tree(), chain, Model(config, config.backbone.build()).state_dict()).save().folder


def as_test_split(folder: Path, *, ndim: int = 2, modality: str = "MR") -> Path:
    """All images in the test split."""
    manifest = Manifest.read(dataset(folder, ndim=ndim))
    rows = tuple(replace(row, split="test", modality=modality) for row in manifest)
    replace(manifest, rows=rows).write()
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robustness")
    as_test_split(folder / "dataset")
    checkpoint(folder / "model")
    checkpoint(folder / "reference", seed=1)
    return folder


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return robustness(
            checkpoint=place / "model",
            dataset=place / "dataset",
            reference=place / "reference",
            reference_name="ResNet-18",
            output=place / "report",
            severities=[1, 5],
            **QUICK,
        ).folder


def scores(folder: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / "robustness.json").read_text())
    return tree


def test_every_corruption_of_the_modality_is_scored_in_every_severity(finished: Path) -> None:
    tree = scores(finished)
    names = ["bias_field", "blur", "contrast", "gamma", "ghosting", "mr_motion", "noise", "resolution"]
    assert list(tree["model"]["corruptions"]) == names
    found = [(one["corruption"], one["severity"]) for one in tree["model"]["conditions"]]
    assert found == [("", 0), *((name, severity) for name in names for severity in (1, 5))]
    assert tree["reference"]["name"] == "ResNet-18"
    assert set(tree["model"]["all"]) == {"mean_error", "rise", "balanced_error", "relative_balanced_error"}


def test_without_corruption_scores_are_those_of_evaluate(place: Path, finished: Path) -> None:
    report = evaluate(checkpoint=place / "model", dataset=place / "dataset", output=place / "evaluated", **QUICK)
    clean = scores(finished)["model"]["conditions"][0]
    assert clean["metric"]["value"] == pytest.approx(report.metrics["auroc"])
    assert clean["error"]["value"] == pytest.approx(1.0 - report.metrics["balanced_accuracy"])


def test_the_page_names_the_reference_the_limits_and_no_patient(finished: Path) -> None:
    page = (finished / "robustness.html").read_text()
    assert "balanced error of" in page or "relative balanced error" in page
    assert "ResNet-18" in page
    assert "Corruptions are simulated." in page
    assert "p-3" not in page


def test_the_same_seed_gives_the_same_scores(place: Path, finished: Path) -> None:
    again = robustness(
        checkpoint=place / "model",
        dataset=place / "dataset",
        output=place / "again",
        severities=[1, 5],
        corruptions=["noise", "blur"],
        **QUICK,
    )
    known = {(one["corruption"], one["severity"]): one for one in scores(finished)["model"]["conditions"]}
    for one in scores(again.folder)["model"]["conditions"]:
        assert one["error"]["value"] == known[one["corruption"], one["severity"]]["error"]["value"]


def test_a_segmentation_of_volumes_has_slices_that_are_missing(tmp_path: Path) -> None:
    as_test_split(tmp_path / "dataset", ndim=3)
    report = robustness(
        checkpoint=checkpoint(tmp_path / "model", ndim=3),
        dataset=tmp_path / "dataset",
        output=tmp_path / "report",
        corruptions=["missing_slices", "noise"],
        severities=[3],
        max_images=4,
        **QUICK,
    )
    tree = scores(report.folder)
    assert tree["images"] == 4
    assert tree["metric"] == "dice"
    clean = tree["model"]["conditions"][0]
    assert clean["error"]["value"] == pytest.approx(1.0 - clean["metric"]["value"])


def test_a_reference_with_other_classes_is_refused(place: Path, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other", classes=("dark", "grey", "bright"))
    with pytest.raises((ConfigError, DataError), match="classes"):
        robustness(
            checkpoint=place / "model", dataset=place / "dataset", reference=other, output=tmp_path / "report", **QUICK
        )


def test_a_corruption_that_images_cannot_have_and_a_wrong_severity_are_refused(place: Path, tmp_path: Path) -> None:
    given = {"checkpoint": place / "model", "dataset": place / "dataset", "output": tmp_path / "report", **QUICK}
    with pytest.raises(ConfigError, match="stain needs three channels"):
        robustness(**given, corruptions=["stain"])
    with pytest.raises(ConfigError, match="no corruption 'nois'"):
        robustness(**given, corruptions=["nois"])
    with pytest.raises(ConfigError, match=r"severities is \[0\]; expected different numbers from 1 to 5"):
        robustness(**given, severities=[0])
    with pytest.raises(ConfigError, match="reference_name is given, but reference is not"):
        robustness(**given, reference_name="ResNet-18")
