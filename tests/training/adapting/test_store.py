"""Fine-tuning that stores only adapter and head, of many models on one backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medvit.artifacts import WEIGHTS, Checkpoint
from medvit.errors import ConfigError
from medvit.models.base import complete
from pipelines.finetune import finetune
from tests.models.tuned import backbone_in
from tests.training.test_runs import TINY, finetune_options


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backbone_in(tmp_path_factory.mktemp("shared") / "backbone")


def test_finetuning_stores_only_the_adapter_if_asked(images: Path, backbone: Path, tmp_path: Path) -> None:
    options = finetune_options(
        images, checkpoint=backbone, head=None, trainer={"epochs": 1, "steps_per_epoch": 1, "precision": "32-true"}
    )
    whole = finetune(output=tmp_path / "whole", **options)
    small = finetune(output=tmp_path / "small", store="adapter", **options)
    assert not (small.folder / WEIGHTS).exists()
    assert small.model["base"] == whole.model["base"]
    found, expected = complete(Checkpoint.load(small.folder)).state, Checkpoint.load(whole.folder).state
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert "the others are those of the backbone in" in str(small.summary().text(small.folder))
    assert small.model["base"]["sha256"] in (small.folder / "model_card.md").read_text()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"peft": "full"}, "peft=full trains every weight"),
        ({"checkpoint": None, "peft": "lora", "backbone": TINY | {"ndim": 2}}, "does not come from checkpoint=FOLDER"),
        ({"seeds": 2}, "store=adapter is not possible for an ensemble"),
    ],
)
def test_what_no_adapter_can_restore_is_refused_before_training(
    images: Path, backbone: Path, tmp_path: Path, more: dict[str, object], sentence: str
) -> None:
    options = finetune_options(images, checkpoint=backbone, head=None, store="adapter")
    with pytest.raises(ConfigError, match=sentence):
        finetune(output=tmp_path / "small", **options | more)


def test_a_frozen_backbone_from_elsewhere_is_recorded_as_the_own_one(images: Path, tmp_path: Path) -> None:
    options = finetune_options(images, backbone=TINY | {"ndim": 2}, head=None, peft="frozen", keep="last")
    made = finetune(output=tmp_path / "made", **options | {"trainer": {"epochs": 1, "steps_per_epoch": 1}})
    small = Checkpoint.load_adapter(made.folder)
    assert small.model["base"]["folder"] == "."
    assert complete(small).state.keys() == made.state.keys()
