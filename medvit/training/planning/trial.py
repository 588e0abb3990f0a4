"""Trial of a training run: a few of its steps, measured on one device."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import lightning

from medvit.backbones import Backbone
from medvit.tracking import Tracker
from medvit.training.assembly import AssembledFinetuning
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.planning.profiling import Measured, Meter
from medvit.training.planning.slides import PlannedSlides, plan_slides
from medvit.training.planning.table import MEASURED_STEPS, Sizes
from medvit.training.pretraining_assembly import AssembledPretraining
from medvit.training.slide_assembly import AssembledSlides
from medvit.training.trainer import TrainerOptions

TrainerT = TypeVar("TrainerT", bound=TrainerOptions)


def shortened(trainer: TrainerT) -> TrainerT:
    """Return the trainer options for a few steps on one device, without compilation.

    Compilation is off because the operations of compiled steps cannot be counted.
    """
    alone = {"devices": 1, "nodes": 1, "strategy": "auto"}
    return trainer.model_copy(update=alone | {"epochs": 1, "steps_per_epoch": MEASURED_STEPS, "compile": False})


def try_images(parts: AssembledPretraining | AssembledFinetuning) -> tuple[Sizes, Measured]:
    """Run a shortened training on images or volumes; return the sizes of the full run and the cost of a step."""
    weights = list(parts.module.parameters())
    sizes = Sizes(
        backbone=sum(weight.numel() for weight in parts.backbone.parameters()),
        module=sum(weight.numel() for weight in weights),
        trained=sum(weight.numel() for weight in weights if weight.requires_grad),
        images=parts.num_images,
        checkpoint_bytes=_stored_bytes(parts.backbone),
    )
    return sizes, _measured(parts.trainer, parts.module, parts.loaders)


def try_slides(
    parts: AssembledSlides,
    config: FinetuningOptions,
    *,
    seed: int,
    folder: Path,
    tracker: Tracker,
    failures: list[str],
) -> tuple[Sizes, Measured, PlannedSlides]:
    """Run a shortened training of one head on slides, after embedding a few tiles; return sizes and costs."""
    planned = plan_slides(
        parts.slides,
        config.slides,
        embedder=parts.embedder,
        config=config.tiles,
        work=folder,
        failures=failures,
    )
    training = parts.training(config, planned.slides, seed=seed)
    head = training.assemble(0, folder, tracker)
    backbone, weights = parts.start.backbone, sum(weight.numel() for weight in head.module.parameters())
    sizes = Sizes(
        backbone=sum(weight.numel() for weight in backbone.parameters()),
        module=weights,
        trained=weights,
        images=head.num_slides,
        checkpoint_bytes=_stored_bytes(backbone) + 2 * 4 * weights * len(training.members),
    )
    return sizes, _measured(head.trainer, head.module, (head.loader, head.validation)), planned


def _stored_bytes(backbone: Backbone) -> int:
    return sum(weight.nbytes for weight in backbone.state_dict().values())


def _measured(trainer: lightning.Trainer, module: lightning.LightningModule, loaders: Iterable[Any]) -> Measured:
    meter = Meter()
    trainer.callbacks = [meter]  # nothing is kept of this run
    trainer.fit(module, *loaders)
    return meter.measured
