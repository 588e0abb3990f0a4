"""Prediction with several models on one backbone together, compared with each of them alone: time and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.timing import alternate, print_table
from medvit.artifacts import Checkpoint
from medvit.backbones.vit import VitConfig
from medvit.models.base import recorded_base
from medvit.models.ensemble import Ensemble, load_model
from medvit.models.image import Model, ModelConfig
from medvit.models.stack import Stack
from medvit.transforms.preprocess import Preprocess

NUM_MODELS, NUM_IMAGES, SIDE = 5, 1, 224
HEADS = {"linear heads": ("classification", {"name": "linear"}), "dense heads": ("segmentation", {"name": "dense"})}
METHODS = {"frozen": {"name": "frozen"}, "LoRA": {"name": "lora"}}


def run(folder: Path, repeats: int) -> None:
    """Print the time of an image and the memory of the weights for models of one ViT-S, alone and together."""
    torch.manual_seed(0)
    config = VitConfig.parse({"ndim": 2, "channels": 3, "patch_size": 16, "size": "small"})
    start = Checkpoint(folder / "backbone", {"kind": "backbone", "backbone": config.tree()}, {}, _state(config)).save()
    rows = []
    for head, (kind, options) in HEADS.items():
        for name, way in METHODS.items():
            made = {f"{kind}-{name}-{n}": {"kind": kind, "head": options, "peft": way} for n in range(NUM_MODELS)}
            folders = {one: _tuned(folder / one, start, seed, tree) for seed, (one, tree) in enumerate(made.items())}
            rows.append((f"{head}, {name}", *_compared(folders, repeats)))
    columns = ("", "times as fast", "memory of weights", "bytes on disk")
    print_table(f"{NUM_MODELS} models of one ViT-S together, {SIDE}² pixels, compared with one by one", columns, rows)


def _compared(folders: Mapping[str, Path], repeats: int) -> tuple[str, ...]:
    images = torch.randn(NUM_IMAGES, 3, SIDE, SIDE).split(1)
    alone = {name: load_model(Checkpoint.load(one)) for name, one in folders.items()}
    adapters = {name: Checkpoint.load_adapter(one) for name, one in folders.items()}
    stack = Stack.of(adapters, dict.fromkeys(folders, ""))
    tasks = {"alone": partial(_alone, alone.values(), images), "together": partial(_together, stack, images)}
    times = alternate(tasks, repeats=repeats)
    memory = [_memory(models) for models in (stack.models.values(), alone.values())]
    whole = sum((one / "model.safetensors").stat().st_size for one in folders.values())
    small = sum((one / "adapter.safetensors").stat().st_size for one in folders.values()) + whole / len(folders)
    rate = times["alone"].cpu_median / times["together"].cpu_median
    return f"{rate:.2f}", f"{memory[0] / memory[1]:.2f}", f"{small / whole:.2f}"


def _alone(models: Iterable[Model | Ensemble], images: tuple[Tensor, ...], _: Path) -> None:
    for model in models:
        for image in images:
            model.predict(image)


def _together(stack: Stack, images: tuple[Tensor, ...], _: Path) -> None:
    for image in images:
        stack.predict(stack.models.keys(), image)


def _memory(models: Iterable[nn.Module]) -> int:
    storages = (weight.untyped_storage() for model in models for weight in model.state_dict().values())
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


def _state(config: VitConfig) -> dict[str, Tensor]:
    return dict(config.build().state_dict())


def _tuned(folder: Path, start: Checkpoint, seed: int, tree: Mapping[str, object]) -> Path:
    torch.manual_seed(seed)
    config = ModelConfig.parse({"backbone": start.model["backbone"], "classes": ("none", "a", "b"), **tree})
    backbone = config.backbone.build()
    backbone.load_state_dict(dict(start.state))
    model = Model(config, backbone)
    with torch.no_grad():
        for weight in (one for one in model.parameters() if one.requires_grad):
            weight.add_(0.01 * torch.randn_like(weight))
    adapter = model.stored_adapter()
    described = model.config.model_copy(update={"base": recorded_base(start.folder, folder)}).tree()
    preprocess = Preprocess(kind="image", channels=3, size=(SIDE, SIDE)).tree()
    return Checkpoint(folder, described, preprocess, model.merged_state(), adapter).save().folder
