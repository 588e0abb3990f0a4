"""Options of the trainer: half precision, gradient accumulation, compiled blocks; results do not change."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.errors import ConfigError
from medvit.tracking import Tracker
from medvit.training.trainer import TrainerConfig
from pipelines.pretrain import pretrain

MAE = {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}


def options(data: Path, **more) -> dict:
    return {
        "dataset": data,
        "tracking": {"enabled": False},
        "preprocess": {"kind": "image"},
        "backbone": {"patch_size": 4, "width": 32, "depth": 2, "heads": 2},
        "objective": MAE,
        "trainer": {"epochs": 1, "steps_per_epoch": 3, "precision": "32-true"},
        "loader": {"batch_size": 4},
        "guard": "off",
    } | more


def difference(one: Checkpoint, other: Checkpoint) -> float:
    assert one.state.keys() == other.state.keys()
    return max(float((one.state[name] - other.state[name]).abs().max()) for name in one.state)


@pytest.fixture(scope="module")
def plain(images, tmp_path_factory) -> Checkpoint:
    return Checkpoint.load(pretrain(output=tmp_path_factory.mktemp("plain") / "x", **options(images)).folder)


def test_compiled_blocks_learn_the_same_under_the_same_names(images, plain, tmp_path, monkeypatch):
    """Captured and differentiated by torch.compile, but run without code generation, which takes minutes on a CPU."""
    captured = []

    def backend(graph, inputs):
        captured.append(graph)
        from torch._dynamo.backends.debugging import aot_eager

        return aot_eager(graph, inputs)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    given = options(images)
    given["trainer"] = given["trainer"] | {"compile": True}
    made = Checkpoint.load(pretrain(output=tmp_path / "x", **given).folder)
    assert captured
    assert difference(made, plain) < 1e-5


def test_batches_that_are_added_up_make_the_step_of_their_union(images, tmp_path):
    """All patches are hidden, so that masks, which are drawn batch by batch, are the same."""
    given = options(images, peft="full")
    given["objective"] = {"name": "simmim", "mask_ratio": 0.99, "views": {"size": [16, 16]}}
    whole = Checkpoint.load(pretrain(output=tmp_path / "whole", **given).folder)
    given |= {"loader": {"batch_size": 2}, "trainer": given["trainer"] | {"accumulate": 2}}
    parts = Checkpoint.load(pretrain(output=tmp_path / "parts", **given).folder)
    assert difference(whole, parts) < 1e-5


@pytest.mark.parametrize("save_memory", [False, True])
def test_half_precision_learns_and_keeps_weights_in_full(images, plain, tmp_path, save_memory):
    given = options(images)
    given["trainer"] = given["trainer"] | {"precision": "bf16-mixed"}
    given["backbone"] = given["backbone"] | {"save_memory": save_memory}
    made = Checkpoint.load(pretrain(output=tmp_path / "x", **given).folder)
    assert all(weight.dtype == torch.float32 for weight in made.state.values())
    assert 0.0 < difference(made, plain) < 1e-2


def test_a_step_has_the_images_of_all_devices_and_batches():
    config = TrainerConfig(epochs=3, steps_per_epoch=5, accumulate=2, devices=4, nodes=2)
    assert config.steps == 15
    assert config.batches_per_epoch == 10
    assert config.step_images(8) == 8 * 2 * 4 * 2


def test_weights_cannot_be_shared_out_in_fp16(tmp_path):
    config = TrainerConfig(strategy="fsdp", precision="16-mixed")
    with pytest.raises(ConfigError, match=r"trainer\.strategy=fsdp does not work with fp16; set trainer\.precision="):
        config.build(tmp_path, Tracker(), 1.0)
