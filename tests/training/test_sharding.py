"""Two processes with sharded weights (FSDP2, gloo) train like one, and resume where they were stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh

from medvit.artifacts import Checkpoint
from medvit.backbones.vit import VitConfig
from medvit.distributed import part
from medvit.objectives.mae import MaeConfig
from medvit.stage import Stage
from medvit.training.lightning_module import TrainingModule
from medvit.training.sharding import average_replicated, clip, gather, gradient_norm, is_sharded, shard, whole
from medvit.types import Views
from pipelines.finetune import finetune
from pipelines.pretrain import pretrain
from tests.processes.two_processes import run_in_two

HEAD = {"hidden": 32, "bottleneck": 16, "prototypes": 24}
DINOV2 = {"name": "dinov2", "head": HEAD, "patch_head": "separate", "gram": {"start": 0.2, "refresh": 0.5}}
SHARDED = {"strategy": "fsdp"}


def options(data: Path, **more) -> dict:
    return {
        "dataset": data,
        "tracking": {"enabled": False},
        "preprocess": {"kind": "image"},
        "backbone": {"patch_size": 4, "width": 32, "depth": 2, "heads": 2, "drop_path": 0.1},
        "trainer": {"epochs": 2, "steps_per_epoch": 2, "precision": "32-true"},
        "loader": {"batch_size": 4},
    } | more


def two(stage: Stage, **given) -> Path:
    """Runs a stage as torchrun does, in two processes with half the batch each; where it ended, or was stopped."""
    return run_in_two(stage, given, trainer=SHARDED)


def stopped_at_its_third_step(module, batch, batch_idx):
    if module.global_step >= 3:
        raise KeyboardInterrupt
    SEEDED(module, batch, batch_idx)


SEEDED = TrainingModule.on_train_batch_start


def difference(one: Path, other: Path) -> float:
    first, second = (Checkpoint.load(folder).state for folder in (one, other))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_dinov2_learns_what_one_process_learns_of_the_joint_batch_and_a_stopped_run_goes_on(
    images, tmp_path, monkeypatch
):
    given = options(images, objective=DINOV2 | {"views": {"size": [16, 16], "num_local": 2}}, optim={"lr": 1e-4})
    given["monitors"] = {"knn_images": 4}
    alone = pretrain(output=tmp_path / "alone", **given)
    both = two(pretrain, output=tmp_path / "both", **given)
    assert difference(alone.folder, both) < 1e-5
    assert (both / "image_head.safetensors").is_file()
    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "on_train_batch_start", stopped_at_its_third_step)
        two(pretrain, output=tmp_path / "cut", **given)
    assert (tmp_path / "cut.partial" / "last.ckpt").is_file()
    assert difference(both, two(pretrain, output=tmp_path / "cut", resume=True, **given)) == 0.0


def test_a_finetuning_by_lora_learns_what_one_process_learns_and_saves_memory_on_the_way(images, tmp_path):
    given = options(images, balance="off", optim={"lr": 1e-4}, peft="lora")
    given["backbone"] = given["backbone"] | {"drop_path": 0.0, "save_memory": True}
    alone = finetune(output=tmp_path / "alone", **given)
    assert difference(alone.folder, two(finetune, output=tmp_path / "both", **given)) < 1e-5


def build() -> nn.Module:
    torch.manual_seed(0)
    backbone = VitConfig(ndim=2, channels=1, patch_size=4, width=32, depth=2, heads=2).build()
    return MaeConfig(decoder_width=32, decoder_depth=1, decoder_heads=2).build(backbone)


def work(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    module, before = build(), build().state_dict()
    shard(module, init_device_mesh("cpu", (2,)))
    held = {name: part(weight).numel() for name, weight in module.named_parameters()}
    assert all(torch.equal(weight, before[name]) for name, weight in whole(module.state_dict()).items())
    for number, weight in enumerate(module.parameters()):
        weight.grad = torch.full_like(weight, float(number % 5))
        if not is_sharded(nn.ParameterList([weight])):
            weight.grad += rank - 0.5  # the weights of each process, trained on its own images
    average_replicated(module)
    norm = gradient_norm(module.parameters())
    clip(module.parameters(), 1.0)
    clipped = gradient_norm(module.parameters())
    gather(module)
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())
    assert not is_sharded(module)
    module.load_state_dict(before)
    assert torch.isfinite(module(Views(torch.randn(1, 2, 1, 16, 16)), 0.5).total)
    torch.save((held, norm, clipped), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_blocks_are_shared_out_by_halves_and_norms_are_those_of_all(tmp_path):
    multiprocessing.start_processes(work, args=(str(tmp_path),), nprocs=2, start_method="fork")
    module = build()
    sizes = {name: weight.numel() for name, weight in module.named_parameters()}
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, size in sizes.items():
        counts = [held[name] for held, _, _ in parts]
        assert counts == ([size // 2] * 2 if "blocks." in name else [size] * 2), name
    for number, weight in enumerate(module.parameters()):
        weight.grad = torch.full_like(weight, float(number % 5))
    expected = torch.nn.utils.get_total_norm([weight.grad for weight in module.parameters()])
    for _, norm, clipped in parts:
        torch.testing.assert_close(norm, expected, rtol=1e-5, atol=0)
        assert float(clipped) == pytest.approx(1.0, abs=1e-5)
