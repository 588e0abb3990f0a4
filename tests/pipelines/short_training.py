"""Photographs of two kinds, and options of a training of a few steps on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

OFF: dict[str, Any] = {"tracking": {"enabled": False}}
SHORT: dict[str, Any] = {
    "backbone": {"name": "vit", "patch_size": 8, "width": 12, "depth": 1, "heads": 2},
    "peft": "full",
    "loader": {"batch_size": 8},
    "trainer": {"epochs": 1, "steps_per_epoch": 4},
}


def write_dark_and_bright(folder: Path, number: int, *, dark: float, bright: float) -> None:
    """Write noisy images of these mean values in turn, into a folder for each kind."""
    generator = np.random.default_rng(0)
    for index in range(number):
        kind, mean = (("dark", dark), ("bright", bright))[index % 2]
        (folder / kind).mkdir(parents=True, exist_ok=True)
        pixels = generator.normal(mean, 30, (32, 32)).clip(0, 255).astype(np.uint8)
        Picture.fromarray(pixels).save(folder / kind / f"{index}.png")
