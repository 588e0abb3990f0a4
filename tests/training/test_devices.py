"""A run on several devices is started like any other, gives the result of one device, and only rank 0 writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.stage import StageConfig
from pipelines.finetune import FinetuneConfig, finetune
from pipelines.ingest import IngestConfig, ingest
from pipelines.pretrain import pretrain
from tests.processes.forked import forked_command
from tests.processes.two_processes import run_in_two

OPTIONS = {
    "balance": "off",
    "preprocess": {"kind": "image"},
    "backbone": {"patch_size": 8, "width": 32, "depth": 2, "heads": 2},
    "peft": "full",
    "trainer": {"epochs": 2, "steps_per_epoch": 3, "precision": "32-true"},
    "tracking": {"enabled": False},
}


def finetune_by_command(options: dict[str, Any], output: Path) -> None:
    """Fine-tunes by the command, which starts the second process itself, with half the batch in each."""
    halved = {"output": output, "loader": {"batch_size": 2}, "trainer": OPTIONS["trainer"] | {"devices": 2}}
    path = output.with_suffix(".yaml")
    path.write_text(FinetuneConfig.parse({**options, **halved}).to_yaml(), encoding="utf-8")
    with forked_command("finetune", str(path)) as process:
        pass
    assert process.status == 0, process.errors


def assert_same_weights(one: Path, other: Path, *, atol: float, besides: str = "") -> None:
    first, second = (Checkpoint.load(folder).state for folder in (one, other))
    for name in first:
        if besides and name.endswith(besides):
            continue
        torch.testing.assert_close(second[name], first[name], atol=atol, rtol=0)


def test_two_processes_learn_what_one_learns_of_twice_the_batch(images: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "dataset": images}
    alone = finetune(output=tmp_path / "alone", loader={"batch_size": 4}, **options)
    finetune_by_command(options, tmp_path / "both")
    assert_same_weights(alone.folder, tmp_path / "both", atol=2e-5, besides="bias")
    assert json.loads((tmp_path / "both" / "lineage.json").read_text())["stage"] == "finetune"
    assert not [path for path in (tmp_path / "both").iterdir() if path.name.startswith(".")]


def test_two_processes_pretrain_as_one_with_the_joint_batch_masks_and_drop_path_included(
    images: Path, tmp_path: Path
) -> None:
    options = {key: OPTIONS[key] for key in ("preprocess", "trainer", "tracking")} | {
        "dataset": images,
        "backbone": {**OPTIONS["backbone"], "drop_path": 0.3},
        "objective": {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2, "mask_ratio": 0.5},
        "monitors": {"knn_images": 4},
    }
    alone = pretrain(output=tmp_path / "alone", loader={"batch_size": 4}, **options)
    both = run_in_two(pretrain, {**options, "output": tmp_path / "both", "loader": {"batch_size": 4}}, trainer={})
    assert_same_weights(alone.folder, both, atol=1e-5, besides="bias")


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "lejepa", "projector": {"hidden": 24, "width": 6}, "num_directions": 8},
        {"name": "swav", "projector": {"hidden": 24, "width": 6}, "prototypes": 5, "queue": 8, "queue_from": 0.4},
    ],
    ids=lambda objective: objective["name"],
)
def test_two_processes_normalize_and_balance_the_joint_batch(
    images: Path, tmp_path: Path, objective: dict[str, Any]
) -> None:
    options = {key: OPTIONS[key] for key in ("preprocess", "trainer", "tracking")} | {
        "dataset": images,
        "backbone": OPTIONS["backbone"],
        "objective": objective | {"views": {"num_local": 1}},
        "guard": "off",
    }
    alone = pretrain(output=tmp_path / "alone", loader={"batch_size": 4}, **options)
    both = run_in_two(pretrain, {**options, "output": tmp_path / "both", "loader": {"batch_size": 4}}, trainer={})
    # The gradient of some biases is zero but for rounding, as of those before batch normalization: Adam magnifies it.
    assert_same_weights(alone.folder, both, atol=1e-5, besides="bias")


def test_a_stage_that_needs_one_process_leaves_the_others_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert not StageConfig.IS_DISTRIBUTED
    config = IngestConfig.parse({"source": tmp_path / "missing", "dataset": tmp_path / "dataset"})
    with pytest.raises(SystemExit) as left:
        ingest(config)
    assert left.value.code == 0
    assert list(tmp_path.iterdir()) == []
