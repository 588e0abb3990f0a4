"""Resource estimate of a training run: parameters, FLOPs, memory, time and disk space, from a few measured steps."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from medvit.artifacts import FINGERPRINT
from medvit.files.atomic import write_text
from medvit.files.spreadsheets import csv_text
from medvit.summary import Summary
from medvit.training.loading.schedule import Schedule
from medvit.training.planning.profiling import WARMUP_STEPS, Measured
from medvit.training.planning.slides import PlannedSlides
from medvit.training.trainer import TrainerConfig
from medvit.types import RunLength

MEASURED_STEPS = WARMUP_STEPS + 3
ADAM_BYTES = 8
"""Bytes of AdamW's state for each trained weight: two float32 averages."""
WIDE = 40
"""Longest text with which the other rows of a table are aligned."""
TABLE = "plan.csv"
PlanRow = tuple[str, str, str]
"""Quantity, amount, and how it was obtained."""


@dataclass(frozen=True)
class Plan:
    """Table of the resources that a training run needs; written as `plan.csv`."""

    folder: Path
    rows: tuple[PlanRow, ...]

    def __str__(self) -> str:
        widths = [max(len(row[column]) for row in self.rows if len(row[column]) <= WIDE) for column in (0, 1)]
        return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]}".rstrip() for row in self.rows)

    def summary(self) -> Summary:
        """Return the rows of the table."""
        lines = [(row[0], f"{row[1]}  {row[2]}".rstrip()) for row in self.rows]
        return Summary(lines, {TABLE: "table", FINGERPRINT: "facts about the training images, and proposed options"})

    def write(self) -> None:
        """Write the table into the folder."""
        write_text(self.folder / TABLE, csv_text(("what", "how_much", "how_it_is_known"), self.rows))


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters (backbone, all, trained) and images of a training run, and bytes of its checkpoint."""

    backbone: int
    module: int
    trained: int
    images: int
    checkpoint_bytes: int

    @property
    def resume_bytes(self) -> int:
        """Bytes of the file to resume from: all weights, and the optimizer state of trained weights."""
        return 4 * self.module + ADAM_BYTES * self.trained


def image_rows(
    schedule: Schedule, sizes: Sizes, measured: Measured, *, models: int, output: Path
) -> tuple[PlanRow, ...]:
    """Return the table for training `models` models on images or volumes, one after the other.

    `output` is the folder that the run would write to.
    """
    trainer, images = schedule.trainer, schedule.step_images
    length = RunLength(sizes.images, images, trainer.steps)
    training_s = models * (trainer.steps * measured.step_s + trainer.epochs * measured.epoch_end_s)
    fixed = 4 * sizes.module + (4 + ADAM_BYTES) * sizes.trained
    disk = 2 * sizes.resume_bytes + 2 * models * sizes.checkpoint_bytes
    each = f"{models} models of " if models > 1 else ""
    free = shutil.disk_usage(_existing(output)).free
    where = f"{trainer.devices * trainer.nodes} devices, of which one was measured" if _many(trainer) else "one device"
    return (
        ("weights of the backbone", _count(sizes.backbone), ""),
        ("weights in all", _count(sizes.module), "with heads, decoder and teacher"),
        ("trained weights", _count(sizes.trained), f"{sizes.trained / sizes.module:.1%} of all"),
        (
            "images",
            str(sizes.images),
            f"{images} a step, seen {length.passes(length.num_steps):.1f} times",
        ),
        ("operations of a step", f"{_count(measured.flops)}FLOP", "a device, forward and backward, counted"),
        ("speed", f"{_count(measured.flops / measured.step_s)}FLOP/s", "a device, of these, measured"),
        ("throughput", f"{images / measured.step_s:.3g} images/s", where),
        ("memory, weights", _bytes(fixed), "a device: weights, gradients, AdamW's averages"),
        ("memory, activations", _bytes(measured.activation_bytes), "a device, kept for the backward pass, counted"),
        ("memory, peak", _bytes(measured.peak_bytes), "measured on the GPU, or of the process without one"),
        ("time of a step", f"{measured.step_s:.3g} s", f"median of {MEASURED_STEPS - WARMUP_STEPS} after a warm-up"),
        ("time of an epoch's end", f"{measured.epoch_end_s:.3g} s", "probe evaluations, pictures, validation"),
        (
            "time to finish",
            _duration(training_s),
            f"{each}{trainer.steps} steps in {trainer.epochs} epochs: {length.described(length.num_steps)}",
        ),
        ("disk, while running", _bytes(disk), f"at most; {_bytes(free)} are free"),
        ("disk, at the end", _bytes(models * sizes.checkpoint_bytes), "the merged model; an adapter comes in addition"),
    )


def slide_rows(
    schedule: Schedule,
    sizes: Sizes,
    measured: Measured,
    planned: PlannedSlides,
    *,
    heads: int,
    workers: int,
    output: Path,
) -> tuple[PlanRow, ...]:
    """Return the table for training `heads` heads on slides, whose tiles are embedded first.

    `workers` processes read tiles; `output` is the folder for embeddings.
    """
    trainer, slides = schedule.trainer, schedule.step_images
    tile_s = planned.tile_s(workers)
    embedding_s = planned.num_waiting * tile_s if planned.num_waiting else 0.0
    training_s = heads * (trainer.steps * measured.step_s + trainer.epochs * measured.epoch_end_s)
    free = shutil.disk_usage(_existing(output)).free
    there = f"{planned.num_tiles - planned.num_waiting} are embedded already"
    speed = f"{1 / tile_s:.3g} tiles/s" if planned.num_waiting else "nothing to do"
    how = (
        f"read by {workers} processes in parallel"
        if workers
        else ("read and embedded alternately; give tiles.num_workers=...")
    )
    length = RunLength(sizes.images, slides, trainer.steps)
    seen = length.passes(length.num_steps)
    each = f"{heads} heads of {trainer.steps} steps in {trainer.epochs} epochs"
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
        ("time of an epoch's end", f"{measured.epoch_end_s:.3g} s", "validation on all tiles of its slides"),
        ("time to train", _duration(training_s), f"{each}: {length.described(length.num_steps, noun='slides')}"),
        ("time to finish", _duration(embedding_s + training_s), "both"),
        ("disk, embeddings", _bytes(planned.waiting_bytes), f"new ones; {_bytes(free)} are free"),
        ("disk, at the end", _bytes(sizes.checkpoint_bytes), "backbone and heads"),
    )


def _many(trainer: TrainerConfig) -> bool:
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
