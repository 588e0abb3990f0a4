"""Proposed batch size, accumulation, and number of steps."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from medvit.models.image import Model
from medvit.tasks import TaskName
from medvit.training.loading.epochs import LoaderOptions
from medvit.training.loading.schedule import Schedule
from medvit.training.proposals import Proposals
from medvit.training.proposals.memory import measure_memory
from medvit.training.task import TaskAssignment, prepared_shape
from medvit.training.trainer import TrainerOptions
from medvit.transforms.preprocess import Preprocess

log = logging.getLogger("medvit")

BATCH_VALUES = {2: 12 * 512**2, 3: 2 * 128**3}
"""Pixels or voxels in a batch of crops, by number of dimensions: the largest batches of nnU-Net on a GPU of 8 GB."""
LARGEST_BATCH = 32
MIN_BATCH = 2
DATASET_SHARE = 0.05
"""Largest share of the voxels of all training images that a segmentation batch contains (Isensee et al. 2021)."""


@dataclass(frozen=True)
class Duration:
    """Passes over the training images, and limits of the number of steps."""

    passes: int
    fewest: int
    most: int


DENSE, OTHER = Duration(100, 2_500, 25_000), Duration(30, 1_000, 10_000)
"""Duration of the training for segmentation, and for all other tasks."""
EPOCH_STEPS = (50, 500)
"""Minimum and maximum number of steps in a proposed epoch. The model is validated after each epoch."""


def propose_schedule(
    proposals: Proposals,
    loader: LoaderOptions,
    trainer: TrainerOptions,
    task: TaskAssignment,
    model: Model,
    preprocess: Preprocess,
) -> Schedule:
    """Return batches and duration, with unset options proposed.

    If the wanted batch does not fit into the memory of the device, a step accumulates several batches.
    """
    rest = {}
    batch_size = loader.batch_size
    if batch_size is None:
        wanted, reason = _wanted_batch(model.config.roi or (), task, preprocess)
        batch_size = proposals.fill_number("loader.batch_size", None, lambda: _fitting(wanted, reason, model, trainer))
        parts = -(-wanted // batch_size)
        if trainer.accumulate is None and parts > 1:
            why = f"a step of {wanted} images is divided into batches that fit into the memory"
            rest["accumulate"] = proposals.fill_number("trainer.accumulate", None, lambda: (parts, why))
    images = trainer.over(rest).step_images(batch_size)
    duration = propose_duration(proposals, trainer, task.kind, len(task.train), images)
    return Schedule(loader.over({"batch_size": batch_size}), trainer.over(rest | duration))


def _wanted_batch(crop: tuple[int, ...], task: TaskAssignment, preprocess: Preprocess) -> tuple[int, str]:
    """Return the batch size that suits crop size and dataset, regardless of memory, and the reason."""
    values, unit = math.prod(crop), "pixels" if len(crop) == 2 else "voxels"
    wanted, reason = BATCH_VALUES[len(crop)] // values, f"crops have {values:,} {unit}"
    if wanted > LARGEST_BATCH:
        wanted, reason = LARGEST_BATCH, f"{reason}, and a batch has at most {LARGEST_BATCH}"
    if task.kind == "segmentation":
        total = sum(math.prod(prepared_shape(row, preprocess)) for row in task.train)
        share = int(DATASET_SHARE * total / values)
        if share < wanted:
            wanted, reason = share, f"crops have {values:,} {unit}, and a batch at most 5 % of those of all images"
    elif len(task.train) < wanted:
        wanted, reason = len(task.train), "a batch has each training image once at most"
    return (wanted, reason) if wanted >= MIN_BATCH else (MIN_BATCH, f"{reason}; it is the smallest batch")


def _fitting(wanted: int, reason: str, model: Model, trainer: TrainerOptions) -> tuple[int, str]:
    """Return the part of the wanted batch that fits into the memory of the device, and the reason."""
    if trainer.strategy == "fsdp":
        return wanted, f"{reason}; the memory is not measured, because weights are sharded"
    memory = measure_memory(model, model.config.roi or (), trainer)
    if memory.num_images >= wanted:
        return wanted, f"{reason}; {memory}"
    if memory.num_images < 1:
        log.warning("a crop of %s may not fit into the memory: %s; set a smaller crop", model.config.roi, memory)
    return max(1, memory.num_images), f"{memory}"


def propose_duration(
    proposals: Proposals, trainer: TrainerOptions, task: TaskName, num_images: int, step_images: int
) -> dict[str, int]:
    """Return the number of epochs and of steps in an epoch, as given or proposed."""
    duration = DENSE if task == "segmentation" else OTHER
    once = -(-num_images // step_images)
    epoch = min(max(once, EPOCH_STEPS[0]), EPOCH_STEPS[1])
    steps = min(max(duration.passes * once, duration.fewest), duration.most)
    each = f"one pass over {num_images} images takes {once} steps of {step_images}"
    steps_per_epoch = proposals.fill_number("trainer.steps_per_epoch", trainer.steps_per_epoch, lambda: (epoch, each))
    why = f"{steps} steps are {steps * step_images / num_images:.3g} passes over the training images"
    epochs = proposals.fill_number(
        "trainer.epochs", trainer.epochs, lambda: (max(1, round(steps / steps_per_epoch)), why)
    )
    return {"steps_per_epoch": steps_per_epoch, "epochs": epochs}
