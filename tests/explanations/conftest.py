"""Tiny transformers, and images of which one patch, or a corner, determines the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from medvit.models.image import Model, ModelConfig

SIDE, PATCH, GRID = 24, 4, 6


def tiny(head: dict[str, Any], *, kind: str = "classification", seed: int = 0, **more: Any) -> Model:
    """An untrained model of small images."""
    torch.manual_seed(seed)
    backbone = {"name": "vit", "ndim": 2, "channels": 1, "patch_size": PATCH, "width": 32, "depth": 2, "heads": 2}
    tree = {"kind": kind, "backbone": backbone, "peft": {"name": "full"}, "head": head, "label": "label"}
    config = ModelConfig.parse({**tree, "classes": ("a", "b", "c"), **more})
    return Model(config, config.backbone.build()).eval()


@dataclass(frozen=True)
class LesionImages:
    """Noise with one patch whose texture is the class; `places` are the row-major numbers of these patches."""

    pixels: Float[Tensor, "n 1 h w"]
    places: Int[Tensor, "n"]
    classes: Int[Tensor, "n"]


def lesions(count: int, seed: int) -> LesionImages:
    textures = torch.randn(3, PATCH, PATCH, generator=torch.Generator().manual_seed(0)).sign()
    generator = torch.Generator().manual_seed(seed)
    pixels = 0.3 * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    places = torch.randint(GRID * GRID, (count,), generator=generator)
    classes = torch.randint(3, (count,), generator=generator)
    for image, place, kind in zip(pixels, places.tolist(), classes.tolist(), strict=True):
        row, column = PATCH * (place // GRID), PATCH * (place % GRID)
        image[0, row : row + PATCH, column : column + PATCH] += 2.0 * textures[kind]
    return LesionImages(pixels, places, classes)


def fit(model: Model, images_of: Any, *, steps: int) -> Model:
    """Train a model on batches that `images_of(count, seed)` makes."""
    model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    for step in range(steps):
        images = images_of(64, step)
        optimizer.zero_grad()
        F.cross_entropy(model(images.pixels), images.classes).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def trained() -> Model:
    """A model that finds the textured patch."""
    torch.set_num_threads(1)
    return fit(tiny({"name": "abmil"}), lesions, steps=100)
