"""LightningModule base: per-step seeding, learning-rate schedule, stop on a non-finite loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from medvit.distributed import part
from medvit.errors import TrainingError
from medvit.seeds import mixed_seed
from medvit.training.failed_step import Stopped, rows_of, save_stopped
from medvit.training.optim import OptimConfig
from medvit.training.sharding import average_replicated, clip, gather, gradient_norm, is_sharded, shard
from medvit.types import Bags, Batch, RunLength, Views

SHOWN_ROWS = 8


class TrainingModule(lightning.LightningModule):
    """LightningModule in which every step depends only on the seed and the number of the step."""

    def __init__(self, optim: OptimConfig, *, length: RunLength, depth: int, seed: int) -> None:
        super().__init__()
        self.optim, self.length, self.depth, self.seed = optim, length, depth, seed
        self.num_steps = length.num_steps
        self._recalled: dict[str, float] = {}
        self._step_seed = 0
        self._at: tuple[Mapping[str, Tensor], Batch | Bags | Views] | None = None

    @property
    def progress(self) -> float:
        """Fraction of the steps done, in [0, 1]."""
        return min(1.0, self.global_step / self.num_steps)

    @property
    def seed_rank(self) -> int:
        """Number that is added to the seed of a step, so that different devices have different seeds."""
        return self.global_rank

    def configure_optimizers(self) -> Optimizer:
        """Return AdamW on all trainable weights."""
        return self.optim.build(self, self.depth)

    def configure_model(self) -> None:
        """Shard the weights over processes, if the strategy requires it."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy) and not is_sharded(self):
            shard(self, strategy.device_mesh["data_parallel"])

    def on_train_end(self) -> None:
        """Gather the weights: everything after this runs on one process."""
        gather(self)

    def clipped(self) -> Sequence[Sequence[nn.Parameter]]:
        """Return groups of weights; gradients are clipped separately in each group, by the norm of the group."""
        return (list(self.parameters()),)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient of each group by its own norm."""
        largest = gradient_clip_val or math.inf
        for weights in self.clipped():
            if is_sharded(self):
                clip(weights, largest)
            else:
                clip_grad_norm_([weight for weight in weights if weight.grad is not None], largest)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step and set its learning rates."""
        self._step_seed = mixed_seed(self.seed, 3, self.global_step, self.seed_rank, batch_idx)
        torch.manual_seed(self._step_seed)
        progress = (self.global_step + 1) / self.num_steps
        rate = self.optim.rate(progress)
        for group in self.trainer.optimizers[0].param_groups:
            held = self.optim.backbone_share(progress) if group["of_backbone"] else 1.0
            group["lr"] = rate * group["scale"] * held
            if group["decays"]:
                group["weight_decay"] = self.optim.decay(self.progress)
        self.log("lr", rate)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop the run if gradients are not finite; in fp16, the gradient scaler skips such steps itself."""
        shared = is_sharded(self)
        if shared:
            average_replicated(self)
        if self.trainer.precision != "16-mixed":
            gradients = [weight.grad for weight in self.parameters() if weight.grad is not None]
            norm = gradient_norm(self.parameters()) if shared else torch.nn.utils.get_total_norm(gradients)
            if not torch.isfinite(norm):
                self._stop("norm of the gradient", norm.item())

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Run an optimizer step, then `after_step`, unless the gradient scaler of fp16 skipped the step."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        scale = 0.0 if scaler is None else scaler.get_scale()
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if scaler is None or scaler.get_scale() >= scale:  # a skipped step lowers the scale
            self.after_step()

    def after_step(self) -> None:
        """Do what follows a step that changed the weights; Lightning increments `global_step` after this call."""

    def epoch_of(self, step: int) -> str:
        """Return a text for a summary: the epoch of a step, the number of epochs, the step and the images seen."""
        epochs = self.trainer.max_epochs or 1
        epoch = math.ceil(step * epochs / self.num_steps)
        return f"epoch {epoch} of {epochs} (step {step}: {self.length.described(step)})"

    def outcome(self) -> dict[str, str]:
        """Return the outcome of the training for a summary: names and texts."""
        raise NotImplementedError

    def figures(self) -> dict[str, float]:
        """Return the last value of every metric, for the model card."""
        return self._recalled | {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the metrics: a run resumed after its last epoch computes none."""
        checkpoint["figures"] = self.figures()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the metrics."""
        self._recalled = dict(checkpoint["figures"])

    def finite(self, terms: Mapping[str, Tensor], batch: Batch | Bags | Views) -> Tensor:
        """Return the sum of the terms of a loss, if it is finite.

        If it is not finite, the batch and the weights are saved before any weight changes. `python -m
        medvit.training.failed_step FILE` inspects them, and `replay` in that module prepares repeating the step.

        Raises:
            TrainingError: If the sum is not finite; the failed step has not changed the weights.
        """
        self._at = terms, batch
        total = torch.stack([value.float() for value in terms.values()]).sum()
        if not torch.isfinite(total):
            self._stop("loss", total.item())
        return total

    def _stop(self, what: str, value: float) -> None:
        assert self._at is not None
        terms = {name: float(term.detach()) for name, term in self._at[0].items()}
        batch = self._at[1]
        rows = rows_of(batch)
        name = f"stopped-step-{self.global_step:07d}-rank-{self.global_rank}.safetensors"
        path = Path(self.trainer.default_root_dir) / name
        weights = {name: part(weight) for name, weight in self.state_dict().items()}
        save_stopped(path, batch, Stopped(self.global_step, self._step_seed, terms, rows, {}, weights))
        more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
        terms_text = ", ".join(f"{term} {number:.4g}" for term, number in terms.items())
        raise TrainingError(
            f"the {what} is {value} at step {self.global_step} ({terms_text}; rows "
            f"{', '.join(rows[:SHOWN_ROWS])}{more}); lower optim.lr or set trainer.precision=32-true, and start "
            f"again; the weights were not changed, and `python -m medvit.training.failed_step {path}` inspects "
            "the step"
        )
