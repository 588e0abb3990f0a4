"""A small segmentation model of CT volumes in a folder, without any training."""

from __future__ import annotations

from pathlib import Path

import torch

from medvit.artifacts import Checkpoint
from medvit.models.image import Model, ModelConfig
from medvit.transforms.preprocess import Preprocess

VIT = {"name": "vit", "patch_size": 8, "width": 12, "depth": 4, "heads": 2, "ndim": 3, "channels": 1}


def write_checkpoint(folder: Path, *, seed: int = 0, **applies_to: str) -> Path:
    """Write an untrained model of CT volumes."""
    torch.manual_seed(seed)
    config = ModelConfig.parse(
        {
            "kind": "segmentation",
            "backbone": VIT,
            "peft": {"name": "full"},
            "head": {"name": "dense", "channels": 4},
            "classes": ("background", "liver"),
            "roi": (16,) * 3,
            "overlap": 0.0,
            "applies_to": {"kind": "volume", "modality": "CT", **applies_to},
        }
    )
    chain = Preprocess.parse({"kind": "volume", "channels": 1, "spacing_mm": (16.0, 16.0, 16.0)})
    state = Model(config, config.backbone.build()).state_dict()
    Checkpoint(folder, config.tree(), chain.tree(), state).save()
    return folder
