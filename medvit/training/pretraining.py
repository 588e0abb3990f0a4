"""Self-supervised training of a backbone."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from medvit.objectives import Objective
from medvit.objectives.pictures import views_figure
from medvit.samples import Views
from medvit.tracking import Tracker
from medvit.training.module import TrainingModule
from medvit.training.monitors import Probe
from medvit.training.optim import OptimConfig


class Pretraining(TrainingModule):
    """An objective in training; after each round the representation is read and pictures are kept."""

    def __init__(
        self,
        objective: Objective,
        optim: OptimConfig,
        *,
        num_steps: int,
        seed: int,
        probe: Probe | None,
        tracker: Tracker,
    ) -> None:
        super().__init__(optim, num_steps=num_steps, depth=objective.backbone.depth, seed=seed)
        self.objective = objective
        self.probe, self.tracker = probe, tracker
        self._shown: Views | None = None
        self._followed = 0

    def training_step(self, views: Views, batch_idx: int) -> Tensor:
        """The total loss of a batch of views."""
        if self.global_step == batch_idx == 0 and self.trainer.is_global_zero:
            self.tracker.figure(views_figure(views), "pictures/views-0000000.png")
        losses = self.objective(views, self.progress)
        for name, value in losses.terms.items():
            self.log(name, value.detach(), prog_bar=True)
        for name, value in self.objective.readings().items():
            self.log(name, value, prog_bar=True)
        self._shown = views
        return self.finite(losses.total)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Lets the objective prepare the step."""
        self.objective.before_step(self.progress)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradient of each part of the objective by its own norm."""
        for part in self.objective.parts():
            clip_grad_norm_([weight for weight in part if weight.grad is not None], gradient_clip_val or math.inf)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Lets the objective follow the optimizer's step, if this batch ended one."""
        if self.global_step > self._followed:
            self.objective.after_step((self.global_step - 1) / self.num_steps)
            self._followed = self.global_step

    def on_train_start(self) -> None:
        """Reads the representation the run starts from."""
        self._followed = self.global_step
        if self.global_step == 0:
            self._read()

    def on_train_epoch_end(self) -> None:
        """Reads the representation and keeps pictures."""
        self._read()
        if self._shown is not None and self.trainer.is_global_zero:
            for name, figure in self.objective.pictures(self._shown).items():
                self.tracker.figure(figure, f"pictures/{name}-{self.global_step:07d}.png")

    def _read(self) -> None:
        if self.probe is None:
            return
        score = self.probe.score(self.objective.backbone)
        self.tracker.metrics({f"knn_{self.probe.question}": score}, self.global_step)
        if self.global_step:  # Lightning takes no metric before the first step
            self.log("knn", score, prog_bar=True, logger=False, sync_dist=True)
