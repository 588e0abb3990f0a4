"""What a training will take, told before it is started: weights, operations, memory, time and disk."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit.config import unknown_name
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError
from medvit.stage import Finished, Run, Stage, seed_everything
from medvit.tracking import Tracker
from medvit.training.profiling import WARMUP_STEPS, Measured, Meter
from medvit.training.slide_heads import holds_slides
from medvit.training.slide_plan import PlannedSlides, plan_slides
from pipelines import finetune as finetuning
from pipelines import pretrain as pretraining

log = logging.getLogger("medvit")

MEASURED_STEPS = WARMUP_STEPS + 3
PLANNED: Mapping[str, Stage[Any, Any]] = {"pretrain": pretraining.pretrain, "finetune": finetuning.finetune}
ADAM_BYTES = 8
"""Two averages in float32 for each trained weight."""


@dataclass(frozen=True)
class Plan:
    """Rows of a table: what, how much, and how it is known."""

    folder: Path
    rows: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        widths = [max(len(row[column]) for row in self.rows) for column in (0, 1)]
        return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]}".rstrip() for row in self.rows)


@dataclass(frozen=True)
class Planner:
    """Tells what a pretraining or fine-tuning takes, from a few measured steps; makes nothing."""

    stage: Stage[Any, Any]

    @property
    def config_type(self) -> type[Any]:
        """The options of the stage that is planned."""
        return self.stage.config_type

    def about(self, words: Sequence[str]) -> tuple[Planner, list[str]]:
        """The planner of the stage that the first word names, and the other words; where nothing is made, no output.

        Raises:
            ConfigError: If no stage that can be planned is named.
        """
        name = words[0] if words else ""
        if name not in PLANNED:
            raise ConfigError(unknown_name("stage to plan", name, list(PLANNED)))
        rest = list(words[1:])
        if not any(word.startswith("output=") for word in rest):
            rest.append(f"output={Path('planned').absolute()}")
        return Planner(PLANNED[name]), rest

    def run(self, config: Any) -> Finished[Plan]:
        """Measures a few steps in a folder that is removed again, and prints the table."""
        seed_everything(config.seed)
        alone = {"devices": 1, "nodes": 1, "strategy": "auto"}
        short = alone | {
            "epochs": 1,
            "steps_per_epoch": MEASURED_STEPS,
            "compile": False,
        }  # compiled steps are not counted
        changes: dict[str, Any] = {"trainer": config.trainer.model_copy(update=short), "resume": False}
        if isinstance(config, pretraining.PretrainConfig) and config.guard.action != "off":
            changes["guard"] = config.guard.model_copy(update={"action": "warn"})
        with tempfile.TemporaryDirectory() as folder:
            run = Run("plan", Path(folder), Tracker())
            short_config = config.model_copy(update=changes)
            if _learns_slides(config):
                rows = _slide_rows(config, *_measure_slides(short_config, run))
            else:
                rows = _rows(config, *_measure(short_config, run))
        for line in run.failures:
            log.warning("%s", line)
        plan = Plan(config.folder, tuple(rows))
        print(plan)
        return Finished(plan, ())


plan = Planner(PLANNED["pretrain"])


@dataclass(frozen=True)
class Sizes:
    """Weights of a training by number, and what it writes in bytes."""

    backbone: int
    module: int
    trained: int
    images: int
    checkpoint_bytes: int

    @property
    def resume_bytes(self) -> int:
        """The file to resume from: all weights and the averages of those in training."""
        return 4 * self.module + ADAM_BYTES * self.trained


def _learns_slides(config: Any) -> bool:
    is_finetuning = isinstance(config, finetuning.FinetuneConfig)
    return is_finetuning and holds_slides(Manifest.read(config.dataset), config.label)


def _measure_slides(config: finetuning.FinetuneConfig, run: Run) -> tuple[Sizes, Measured, PlannedSlides]:
    parts = finetuning.assemble_slides(config, run)
    planned = plan_slides(
        parts.slides,
        config.slides,
        embedder=parts.embedder,
        config=config.tiles,
        work=run.folder,
        failures=run.failures,
    )
    head = parts.training(config, planned.slides).assemble(0, run.folder, run.tracker)
    backbone, weights = parts.start.backbone, sum(weight.numel() for weight in head.module.parameters())
    sizes = Sizes(
        backbone=sum(weight.numel() for weight in backbone.parameters()),
        module=weights,
        trained=weights,
        images=head.num_slides,
        checkpoint_bytes=sum(weight.nbytes for weight in backbone.state_dict().values())
        + 2 * 4 * weights * config.bags.members,
    )
    meter = Meter()
    head.trainer.callbacks = [meter]  # nothing is kept of this run
    head.trainer.fit(head.module, head.loader, head.validation)
    return sizes, meter.measured, planned


def _measure(config: Any, run: Run) -> tuple[Sizes, Measured]:
    meter = Meter()
    parts: Any
    if isinstance(config, pretraining.PretrainConfig):
        parts = pretraining.assemble(config, run)
        backbone, loaders = parts.peft.backbone, [parts.loader]
    else:
        parts = finetuning.assemble(config, run)
        backbone, loaders = parts.module.model.backbone, [parts.loader, parts.validation]
    weights = list(parts.module.parameters())
    sizes = Sizes(
        backbone=sum(weight.numel() for weight in backbone.parameters()),
        module=sum(weight.numel() for weight in weights),
        trained=sum(weight.numel() for weight in weights if weight.requires_grad),
        images=parts.num_images,
        checkpoint_bytes=sum(weight.nbytes for weight in backbone.state_dict().values()),
    )
    parts.trainer.callbacks = [meter]  # nothing is kept of this run
    parts.trainer.fit(parts.module, *loaders)
    return sizes, meter.measured


def _rows(config: Any, sizes: Sizes, measured: Measured) -> Sequence[tuple[str, str, str]]:
    trainer = config.trainer
    images = trainer.step_images(config.loader.batch_size)
    training_s = trainer.steps * measured.step_s + trainer.epochs * measured.round_end_s
    fixed = 4 * sizes.module + (4 + ADAM_BYTES) * sizes.trained
    disk = 2 * sizes.resume_bytes + 2 * sizes.checkpoint_bytes
    free = shutil.disk_usage(_existing(config.folder)).free
    where = f"{trainer.devices * trainer.nodes} devices, of which one was measured" if _many(trainer) else "one device"
    return (
        ("weights of the backbone", _count(sizes.backbone), ""),
        ("weights in all", _count(sizes.module), "with heads, decoder and teacher"),
        ("weights that learn", _count(sizes.trained), f"{sizes.trained / sizes.module:.1%} of all"),
        (
            "images",
            str(sizes.images),
            f"{images} a step, seen {trainer.steps * images / max(1, sizes.images):.1f} times",
        ),
        ("operations of a step", f"{_count(measured.flops)}FLOP", "a device, forward and backward, counted"),
        ("speed", f"{_count(measured.flops / measured.step_s)}FLOP/s", "a device, of these, measured"),
        ("throughput", f"{images / measured.step_s:.3g} images/s", where),
        ("memory, weights", _bytes(fixed), "a device: weights, gradients, AdamW's averages"),
        ("memory, activations", _bytes(measured.activation_bytes), "a device, kept for the backward pass, counted"),
        ("memory, peak", _bytes(measured.peak_bytes), "measured on the GPU, or of the process without one"),
        ("time of a step", f"{measured.step_s:.3g} s", f"median of {MEASURED_STEPS - WARMUP_STEPS} after a warm-up"),
        ("time of a round's end", f"{measured.round_end_s:.3g} s", "readings, pictures, validation"),
        ("time to finish", _duration(training_s), f"{trainer.steps} steps in {trainer.epochs} rounds"),
        ("disk, while running", _bytes(disk), f"at most; {_bytes(free)} are free"),
        ("disk, at the end", _bytes(sizes.checkpoint_bytes), "the merged model; an adapter comes beside"),
    )


def _slide_rows(
    config: finetuning.FinetuneConfig, sizes: Sizes, measured: Measured, planned: PlannedSlides
) -> Sequence[tuple[str, str, str]]:
    trainer, heads = config.trainer, config.bags.members
    slides = trainer.step_images(config.loader.batch_size)
    workers = config.tiles.num_workers
    tile_s = planned.tile_s(workers)
    embedding_s = planned.num_waiting * tile_s if planned.num_waiting else 0.0
    training_s = heads * (trainer.steps * measured.step_s + trainer.epochs * measured.round_end_s)
    free = shutil.disk_usage(_existing(config.tiles.embeddings or config.dataset)).free
    there = f"{planned.num_tiles - planned.num_waiting} are there already"
    speed = f"{1 / tile_s:.3g} tiles/s" if planned.num_waiting else "nothing to do"
    how = f"read in {workers} processes beside" if workers else "read and embedded by turns; give tiles.num_workers=..."
    seen = trainer.steps * slides / max(1, sizes.images)
    return (
        ("weights of the backbone", _count(sizes.backbone), "frozen"),
        ("weights of a head", _count(sizes.trained), f"{heads} heads, one after the other"),
        ("slides", str(sizes.images), f"{slides} a step, seen {seen:.1f} times by each head"),
        ("tiles", str(planned.num_tiles), f"at most {planned.most_tiles} on a slide; {there}"),
        ("speed of embedding", speed, f"measured on one slide; {how}" if planned.num_waiting else ""),
        ("time to embed", _duration(embedding_s), f"{planned.num_waiting} tiles, once for all runs of this backbone"),
        ("operations of a step", f"{_count(measured.flops)}FLOP", "of a head, forward and backward, counted"),
        ("memory, activations", _bytes(measured.activation_bytes), "of a head, kept for the backward pass, counted"),
        ("memory, peak", _bytes(measured.peak_bytes), "measured on the GPU, or of the process without one"),
        ("time of a step", f"{measured.step_s:.3g} s", f"median of {MEASURED_STEPS - WARMUP_STEPS} after a warm-up"),
        ("time of a round's end", f"{measured.round_end_s:.3g} s", "validation on all tiles of its slides"),
        ("time to train", _duration(training_s), f"{heads} heads of {trainer.steps} steps in {trainer.epochs} rounds"),
        ("time to finish", _duration(embedding_s + training_s), "both"),
        ("disk, embeddings", _bytes(planned.waiting_bytes), f"new ones; {_bytes(free)} are free"),
        ("disk, at the end", _bytes(sizes.checkpoint_bytes), "backbone and heads"),
    )


def _many(trainer: Any) -> bool:
    return bool(trainer.devices * trainer.nodes > 1)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _count(number: float) -> str:
    if not math.isfinite(number):
        return "unknown "
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} "


def _bytes(number: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 2**10:.3g} KiB"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.1f} hours" if minutes >= 120 else f"{minutes:.1f} minutes"
