"""Fine-tuning by SPT: sensitivities are measured on training batches, and only chosen weights change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.errors import ConfigError
from pipelines.finetune import finetune
from pipelines.pretrain import pretrain
from tests.models.tuned import backbone_in
from tests.training.test_runs import finetune_options, interrupt, pretrain_options


def test_pretraining_has_no_task_whose_gradients_could_choose(images: Path, tmp_path: Path) -> None:
    start = backbone_in(tmp_path / "start")
    options = pretrain_options(images, checkpoint=start, peft="spt", backbone={"name": "vit"})
    with pytest.raises(ConfigError, match="chooses weights by the gradients of a task"):
        pretrain(output=tmp_path / "out", **options | {"objective": {"name": "mae", "views": {"size": [16, 16]}}})


def test_finetuning_changes_only_the_chosen_weights_and_a_resumed_run_repeats_it(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = backbone_in(tmp_path / "start")
    options = finetune_options(images, checkpoint=start, head=None, peft={"name": "spt", "budget": 0.05, "rank": 1})
    made = finetune(output=tmp_path / "made", **options)
    before, after = Checkpoint.load(start).state, Checkpoint.load(made.folder).state
    changed = {name: int((after[f"backbone.{name}"] != weight).sum()) for name, weight in before.items()}
    num_trained = sum(
        weight.numel()
        for name, weight in (made.adapter or {}).items()
        if name.startswith("backbone.") and weight.is_floating_point()
    )
    assert 0 < num_trained <= 0.05 * sum(weight.numel() for weight in before.values())
    assert changed["patch_embed.proj.weight"] == 0
    assert changed["cls_token"] == 48
    sparse = [name for name in made.adapter or {} if name.endswith("sparse_indices")]
    assert len(sparse) > 1
    for name in sparse:
        weight = name.removeprefix("backbone.").replace(".base_layer", "").removesuffix(".0.sparse_indices")
        weight = weight.replace("parametrizations.", "")
        differs = (after[f"backbone.{weight}"] != before[weight]).flatten().nonzero()[:, 0]
        assert set(differs.tolist()) <= set((made.adapter or {})[name].tolist()), weight
    interrupt(finetune, monkeypatch, 3, output=tmp_path / "cut", **options)
    again = finetune(output=tmp_path / "cut", resume=True, **options)
    assert all(torch.equal(weight, after[name]) for name, weight in Checkpoint.load(again.folder).state.items())
