"""A small backbone in a folder, and models on it whose adapters and heads have random weights, without any training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medvit.artifacts import Checkpoint
from medvit.backbones.vit import VitConfig
from medvit.config import Tree
from medvit.models.base import recorded_base
from medvit.models.image import Model, ModelConfig
from medvit.peft.full import FullConfig
from medvit.transforms.preprocess import Preprocess
from tests.peft.small import random_sensitivity

METHODS = {"spt": {"name": "spt", "budget": 0.08, "rank": 2}}
"""Options of methods whose defaults suit only larger backbones."""
PREPROCESS = {"kind": "image", "size": (16, 16)}


def backbone_in(folder: Path, *, seed: int = 0, **options: Any) -> Path:
    """Write a backbone without an adapter."""
    torch.manual_seed(seed)
    size = {"ndim": 2, "channels": 1, "patch_size": 8, "width": 48, "depth": 3, "heads": 2}
    config = VitConfig(**(size | options))
    backbone = config.build()
    _disturb(backbone, 0.05)
    model = {"kind": "backbone", "backbone": config.tree()}
    preprocess = {"kind": "image" if config.ndim == 2 else "volume"}
    return Checkpoint(folder, model, Preprocess.parse(preprocess).tree(), backbone.state_dict()).save().folder


def tuned_in(
    folder: Path,
    backbone: Path,
    *,
    peft: str | Tree = "lora",
    head: str | Tree = "linear",
    store: str = "all",
    seed: int = 1,
    preprocess: Mapping[str, Any] = PREPROCESS,
    **options: Any,
) -> Path:
    """Write a model on a backbone, with a disturbed adapter and head; with `store="adapter"`, without its backbone."""
    torch.manual_seed(seed)
    start = Checkpoint.load(backbone)
    is_dense = options.get("kind") == "segmentation"
    given = {
        "kind": "classification",
        "classes": ("background", "liver", "spleen") if is_dense else ("normal", "effusion"),
        "backbone": start.model["backbone"],
        "peft": METHODS.get(peft, {"name": peft}) if isinstance(peft, str) else peft,
        "head": {"name": head} if isinstance(head, str) else head,
        "applies_to": {"kind": "image" if start.model["backbone"]["ndim"] == 2 else "volume"},
    }
    config = ModelConfig.parse(given | options)
    built = config.backbone.build()
    built.load_state_dict(dict(start.state))
    if config.peft.NEEDS_SENSITIVITY:
        built.sensitivity = random_sensitivity(built)
    model = Model(config, built)
    torch.manual_seed(seed)  # two heads of one seed get the same adapter
    _disturb(model.backbone, 0.1)
    _disturb(model.head, 0.1)
    adapter, described = model.stored_adapter(), model.config
    state = model.merged_state()
    has_base = not isinstance(described.peft, FullConfig)
    base = recorded_base(backbone, folder) if has_base else None
    tree = described.model_copy(update={"base": base}).tree()
    stored = {} if store == "adapter" else state
    return Checkpoint(folder, tree, Preprocess.parse(preprocess).tree(), stored, adapter).save().folder


def move(folder: Path, to: Path) -> Path:
    """Move a folder."""
    to.parent.mkdir(parents=True, exist_ok=True)
    os.replace(folder, to)
    return to


@torch.no_grad()
def _disturb(module: torch.nn.Module, scale: float) -> None:
    for weight in module.parameters():
        if weight.requires_grad:
            weight.add_(scale * torch.randn_like(weight))
