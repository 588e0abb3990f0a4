"""What pretraining and fine-tuning share: the seed of a step, its learning rate, a stop at a loss that is no number."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim import Optimizer

from medvit.errors import TrainingError
from medvit.training.loader import mixed_seed
from medvit.training.optim import OptimConfig


class TrainingModule(lightning.LightningModule):
    """A module whose every step depends on the seed and the number of the step, and on nothing else that is random."""

    def __init__(self, optim: OptimConfig, *, num_steps: int, depth: int, seed: int) -> None:
        super().__init__()
        self.optim, self.num_steps, self.depth, self.seed = optim, num_steps, depth, seed
        self._recalled: dict[str, float] = {}

    @property
    def progress(self) -> float:
        """Share of the steps behind, in [0, 1]."""
        return min(1.0, self.global_step / self.num_steps)

    def configure_optimizers(self) -> Optimizer:
        """AdamW on what is trainable."""
        return self.optim.build(self, self.depth)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds the step and sets its learning rate."""
        torch.manual_seed(mixed_seed(self.seed, 3, self.global_step, self.global_rank, batch_idx))
        rate = self.optim.rate((self.global_step + 1) / self.num_steps)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate * group["scale"]
            if group["decays"]:
                group["weight_decay"] = self.optim.decay(self.progress)
        self.log("lr", rate)

    def figures(self) -> dict[str, float]:
        """The last value of every metric, for the model card."""
        return self._recalled | {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remembers the figures: a run that is resumed after its last round measures none."""
        checkpoint["figures"] = self.figures()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Recalls the figures."""
        self._recalled = dict(checkpoint["figures"])

    def finite(self, loss: Tensor) -> Tensor:
        """The loss itself.

        Raises:
            TrainingError: If it is not finite; the weights are still those of the step before.
        """
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.global_step}; "
                "lower optim.lr or set trainer.precision=32-true, and start anew"
            )
        return loss
