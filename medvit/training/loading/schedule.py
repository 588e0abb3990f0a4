"""Schedule of a training: batches, steps and passes over the training images."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from medvit.training.loading.epochs import LoaderConfig
from medvit.training.trainer import TrainerConfig
from medvit.types import RunLength

log = logging.getLogger("medvit")


@dataclass(frozen=True)
class Schedule:
    """Options of loading and duration of a training, none of them unset."""

    loader: LoaderConfig
    trainer: TrainerConfig

    @property
    def step_images(self) -> int:
        """Number of images per step, over all devices."""
        return self.trainer.step_images(self.loader.batch_size)

    def run_length(self, num_images: int) -> RunLength:
        """Return the length of the training in steps, images and passes over the training images."""
        return RunLength(num_images, self.step_images, self.trainer.steps, self.trainer.accumulate)

    def report_exposure(self, num_images: int) -> None:
        """Log how often each training image is seen; warn if the training is too short to see each once."""
        run = self.run_length(num_images)
        seen, length = run.seen(run.num_steps), f"{run.num_steps} steps of {run.step_images} images"
        if seen < num_images:
            needed = -(-num_images // (self.step_images * self.trainer.steps_per_epoch))
            once = f"trainer.epochs={needed} sees each once"
            log.warning("%s see %d of %d training images: %s", length, seen, num_images, once)
        else:
            often = f"each of the {num_images} training images is seen {run.passes(run.num_steps):.3g} times"
            log.info("%s, %d in all: %s", length, seen, often)
