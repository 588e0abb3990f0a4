"""What a training will take, told before it is started: weights, operations, memory, time and disk."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit.config import unknown_name
from medvit.errors import ConfigError
from medvit.stage import Finished, Run, Stage, seed_everything
from medvit.tracking import Tracker
from medvit.training.measuring import WARMUP_STEPS, Measured, Meter
from pipelines import finetune as finetuning
from pipelines import pretrain as pretraining

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
        short = alone | {"rounds": 1, "round_steps": MEASURED_STEPS, "compile": False}  # compiled steps are not counted
        changes: dict[str, Any] = {"trainer": config.trainer.model_copy(update=short), "resume": False}
        if isinstance(config, pretraining.PretrainConfig) and config.guard.action != "off":
            changes["guard"] = config.guard.model_copy(update={"action": "warn"})
        with tempfile.TemporaryDirectory() as folder:
            run = Run("plan", Path(folder), Tracker())
            made = _measure(config.model_copy(update=changes), run)
        plan = Plan(config.folder, tuple(_rows(config, *made)))
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
    training_s = trainer.steps * measured.step_s + trainer.rounds * measured.round_end_s
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
        ("time to finish", _duration(training_s), f"{trainer.steps} steps in {trainer.rounds} rounds"),
        ("disk, while running", _bytes(disk), f"at most; {_bytes(free)} are free"),
        ("disk, at the end", _bytes(sizes.checkpoint_bytes), "the merged model; an adapter comes beside"),
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
