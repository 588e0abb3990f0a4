"""One training run in a process of its own, so that its memory can be measured; prints its step times as JSON.

`python -m benchmarks.contender medvit|plain dinov2|mae DATASET STEPS`
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from benchmarks.plain import PlainDinoV2, PlainMae
from medvit.stage import Run
from medvit.tracking import Tracker
from medvit.training.pretraining_assembly import AssembledPretraining
from pipelines import pretrain as pretraining

BATCH, PROTOTYPES = 16, 65536
TRAININGS: dict[str, dict[str, Any]] = {
    "dinov2": {
        "backbone": {"patch_size": 14, "positions": "learned", "layer_scale": 1e-5, "drop_path": 0.1},
        "objective": {
            "name": "dinov2",
            "regularizer": "koleo",
            "head": {"prototypes": PROTOTYPES},
            "views": {"size": [224, 224], "local_size": [98, 98], "num_local": 8},
        },
    },
    "mae": {"backbone": {"patch_size": 16}, "objective": {"name": "mae", "views": {"size": [224, 224]}}},
}
"""ViT-S on crops of 224 pixels, and of 98 for DINOv2, in bf16; all other options at their defaults."""


class Clock(Callback):
    """Callback that records the time at the end of every step, including loading of images."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *batch_and_outputs: Any
    ) -> None:
        """Record the time."""
        self.times.append(time.perf_counter())


def assemble(objective: str, dataset: Path, folder: Path, steps: int) -> AssembledPretraining:
    """Return a pretraining run of medvit, ready to start."""
    training = TRAININGS[objective]
    config = pretraining.PretrainConfig.parse(
        {
            "dataset": str(dataset),
            "output": str(folder),
            "backbone": {"size": "small", **training["backbone"]},
            "objective": training["objective"],
            "loader": {"batch_size": BATCH},
            "trainer": {"epochs": 1, "steps_per_epoch": steps, "precision": "bf16-mixed"},
            "guard": {"action": "off"},
            "tracking": {"enabled": False},
        }
    )
    return pretraining.assemble(config, Run("bench", folder, Tracker()))


def train_medvit(parts: AssembledPretraining) -> list[float]:
    """Return the time at the end of each step of medvit's training."""
    clock = Clock()
    parts.trainer.callbacks = [clock]
    parts.trainer.fit(parts.module, parts.loader)
    return clock.times


def train_plain(objective: str, parts: AssembledPretraining) -> list[float]:
    """Return the time at the end of each step of the plain loop, on the same crops as medvit."""
    return list(islice(_plain_steps(_plain_model(objective), parts), len(parts.loader)))


def _plain_model(objective: str) -> PlainDinoV2 | PlainMae:
    import timm

    if objective == "mae":
        return PlainMae(timm.create_model("vit_small_patch16_224", num_classes=0))
    name, options = "vit_small_patch14_dinov2", {"img_size": 224, "dynamic_img_size": True, "drop_path_rate": 0.1}
    return PlainDinoV2(timm.create_model(name, num_classes=0, **options), PROTOTYPES)


def _plain_steps(model: PlainDinoV2 | PlainMae, parts: AssembledPretraining) -> Iterator[float]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
    for views in parts.loader:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(views.crops, views.local)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 3.0)
        optimizer.step()
        model.move_teacher()
        assert torch.isfinite(loss)
        yield time.perf_counter()


def main(who: str, objective: str, dataset: str, steps: str) -> None:
    """Train and print the seconds of each step after the first."""
    with tempfile.TemporaryDirectory() as folder:
        parts = assemble(objective, Path(dataset), Path(folder), int(steps))
        times = train_medvit(parts) if who == "medvit" else train_plain(objective, parts)
    seconds = [after - before for before, after in pairwise(times)]
    print(json.dumps({"step_s": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
