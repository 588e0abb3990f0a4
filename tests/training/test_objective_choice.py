"""An unset objective follows the initial weights."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvit.artifacts import CONFIG, Checkpoint
from medvit.objectives import ObjectiveConfig
from medvit.stage import Run
from medvit.tracking import Tracker
from medvit.training.objective_choice import choose_objective, find_objective
from medvit.training.pretraining_assembly import AssembledPretraining
from medvit.weights.names import objective_of
from pipelines.pretrain import PretrainConfig, assemble, pretrain
from tests.training.guard.test_guard import DINO, image_options

OWN = {"student_temperature": 0.2, "views": {"num_local": 3, "size": [16, 16], "local_size": [8, 8]}}
"""Options other than the defaults."""


@pytest.fixture(scope="module")
def distilled(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = image_options(images, objective=DINO | OWN, optim={"lr": 1e-3})
    return pretrain(output=tmp_path_factory.mktemp("distilled") / "x", **options).folder


def assembled(images: Path, output: Path, **more: Any) -> AssembledPretraining:
    options = {key: value for key, value in image_options(images, **more).items() if key != "objective"}
    output.mkdir()
    return assemble(PretrainConfig.parse(options | {"output": output}), Run("look", output, Tracker()))


def test_a_checkpoint_is_continued_by_its_own_objective_with_its_options_and_heads(
    images: Path, distilled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "medvit"):
        parts = assembled(images, tmp_path / "out", checkpoint=distilled)
    recorded = parts.objective_in_force
    assert (recorded["name"], recorded["student_temperature"], recorded["views"]["num_local"]) == ("dino", 0.2, 3)
    assert recorded["momentum"] != DINO["momentum"], "the momentum follows the new run"
    head = parts.module.objective.teacher_heads["image"].published()
    assert all(
        torch.equal(head[name], weight) for name, weight in load_file(distilled / "image_head.safetensors").items()
    )
    assert f"Objective: dino, according to {distilled}" in caplog.text


def test_crops_keep_their_size_only_if_the_preprocessing_is_that_of_the_checkpoint(distilled: Path) -> None:
    checkpoint = Checkpoint.load(distilled)
    kept, fitted = (choose_objective(None, checkpoint, None, keeps_size=keeps) for keeps in (True, False))
    assert (kept.views.size, kept.views.local_size) == ((16, 16), (8, 8))
    assert fitted.views.size == fitted.views.local_size == ()


@pytest.mark.parametrize("unknown", ["from scratch", "without a config"])
def test_without_a_known_objective_it_is_mae(
    images: Path, distilled: Path, tmp_path: Path, unknown: str, caplog: pytest.LogCaptureFixture
) -> None:
    more = {}
    if unknown == "without a config":
        more["checkpoint"] = shutil.copytree(distilled, tmp_path / "copy")
        (tmp_path / "copy" / CONFIG).unlink()
    with caplog.at_level(logging.INFO, "medvit"):
        assert assembled(images, tmp_path / "out", **more).objective.name == "mae"
    assert "Objective: mae, the default" in caplog.text


def test_public_weights_of_the_dino_family_are_continued_by_it(
    images: Path, distilled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    public = tmp_path / "rad-dino.safetensors"
    save_file(dict(Checkpoint.load(distilled).state), public)
    backbone = image_options(images)["backbone"] | {"weights": str(public)}
    with caplog.at_level(logging.INFO, "medvit"):
        parts = assembled(images, tmp_path / "out", backbone=backbone)
    assert parts.objective.name == "dinov2"
    assert f"Objective: dinov2, according to the name of {public}" in caplog.text


@pytest.mark.parametrize(
    ("weights", "objective"),
    [
        ("hub:vit_base_patch14_reg4_dinov2.lvd142m", "dinov2"),
        ("hub:vit_small_patch16_dinov3.lvd1689m", "dinov2"),
        ("hub:vit_small_patch16_224.dino", "dino"),
        ("dino_deitsmall16_pretrain.pth", "dino"),
        ("/weights/RETFound_dinov2_meh.pth", "dinov2"),
        ("simdinov2_vitb16.pth", "simdinov2"),
        ("phikon-v2.safetensors", "dinov2"),
        ("dinov2/RETFound_mae_natureCFP.pth", None),
        ("hub:vit_base_patch16_224.mae", None),
        ("hub:vit_base_patch16_224.augreg_in21k", None),
    ],
)
def test_the_name_of_public_weights_tells_the_dino_family(weights: str, objective: str | None) -> None:
    assert objective_of(weights) == objective


@pytest.mark.parametrize(("name", "warns"), [("mae", True), ("lejepa", True), ("simdinov2", False), ("dino", False)])
def test_another_objective_is_allowed_and_warned_of_if_it_has_no_teacher(
    distilled: Path, name: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    given: ObjectiveConfig = find_objective({"name": name})
    assert choose_objective(given, Checkpoint.load(distilled), None, keeps_size=True) is given
    assert ("leave objective unset to continue with dino" in caplog.text) == warns
