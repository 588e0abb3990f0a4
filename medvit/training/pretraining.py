"""Self-supervised training of a backbone, monitored by the guard."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from medvit.backbones import Backbone
from medvit.errors import TrainingError
from medvit.files.atomic import write_weights
from medvit.objectives import Objective
from medvit.objectives.figures import views_figure
from medvit.tracking import Tracker
from medvit.training.distributed_rng import JointDraws
from medvit.training.guard import Alarm, Guard, ProbeReading
from medvit.training.guard.probes import Probe
from medvit.training.lightning_module import TrainingModule
from medvit.training.optim import OptimConfig
from medvit.training.resume import BEST
from medvit.training.self_distillation import SelfDistillation
from medvit.training.sharding import is_sharded, whole
from medvit.types import RunLength, Views

log = logging.getLogger("medvit")


class Pretraining(TrainingModule):
    """Objective in training; the guard evaluates probes before the first step and after each epoch.

    The weights with the best probe evaluation are stored in `folder`. Training on several devices equals training on
    one device with the joint batch.
    """

    def __init__(
        self,
        objective: Objective,
        optim: OptimConfig,
        *,
        length: RunLength,
        seed: int,
        probe: Probe | None,
        guard: Guard,
        tracker: Tracker,
        folder: Path,
        self_distillation: SelfDistillation | None = None,
    ) -> None:
        super().__init__(optim, length=length, depth=objective.backbone.depth, seed=seed)
        self.objective = objective
        self.guard, self.tracker = guard, tracker
        self.probe = None if guard.config.action == "off" else probe
        self.self_distillation = self_distillation
        self.best_path = folder / BEST
        self._shown: Views | None = None
        self._warned: set[str] = set()

    @property
    def seed_rank(self) -> int:
        """Number that is added to the seed of a step: 0, so that all devices have the same seed.

        `JointDraws` splits the random draws between the devices.
        """
        return 0

    def training_step(self, views: Views, batch_idx: int) -> Tensor:
        """Return the total loss of a batch of views."""
        views = self.objective.received(views)
        if self.global_step == batch_idx == 0 and self._is_shown:
            self.tracker.figure(views_figure(views), "pictures/views-0000000.png")
        terms = self._losses(views)
        for name, value in {**terms, **self.objective.readings()}.items():
            self.log(name, value.detach(), prog_bar=True)
        self._shown = views
        return self.finite(terms, views)

    def after_step(self) -> None:
        """Update the objective's teacher."""
        self.objective.after_step(self.progress)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Refuse non-finite gradients, and let the objective prepare the step."""
        super().on_before_optimizer_step(optimizer)
        self.objective.before_step(self.progress)

    def clipped(self) -> Sequence[Sequence[nn.Parameter]]:
        """Return the parts of the objective."""
        return self.objective.parts()

    def on_train_start(self) -> None:
        """Evaluate the probes on the initial weights; a run that the guard has ended does not continue."""
        if self.global_step == 0:
            self._read()
        self.trainer.should_stop = bool(self.guard.verdict) and self.guard.config.action == "rollback"

    def on_train_epoch_end(self) -> None:
        """Evaluate the probes and save pictures."""
        self._read()
        # With sharded weights, all processes must run the forward pass of a picture.
        if self._shown is not None and (self._is_shown or is_sharded(self)):
            for name, figure in self.objective.pictures(self._shown).items():
                self.tracker.figure(figure, f"pictures/{name}-{self.global_step:07d}.png")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the state of the guard."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["guard"] = self.guard.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the guard."""
        super().on_load_checkpoint(checkpoint)
        self.guard.recall(checkpoint["guard"])

    def outcome(self) -> dict[str, str]:
        """Return the last losses, and the best probe evaluation of the guard with its epoch."""
        figures, best = self.figures(), self.guard.best
        losses = {name: value for name, value in figures.items() if not name.startswith(("guard_", "knn_", "lr"))}
        summary = {"last": ", ".join(f"{name} {value:.3g}" for name, value in losses.items())}
        if best is not None:
            summary["best"] = f"{best}, {self.epoch_of(best.step) if best.step else 'before the first step'}"
            summary["guard"] = self.guard.verdict or "no alarm that ended the training"
        return summary

    def handed_on(self) -> Backbone:
        """Return the backbone to save. It has the best weights if the guard requires it, else the last ones."""
        backbone = self.objective.backbone
        if self.guard.close():
            backbone.load_state_dict(load_file(self.best_path))
        return backbone

    @property
    def _is_shown(self) -> bool:
        return self.trainer.is_global_zero and self.tracker.wants_pictures

    def _losses(self, views: Views) -> dict[str, Tensor]:
        world = self.trainer.world_size if self._trainer is not None else 1
        if world == 1:
            return self._terms(views)
        with JointDraws(views.crops.shape[1], world=world, rank=self.global_rank):
            return self._terms(views)

    def _terms(self, views: Views) -> dict[str, Tensor]:
        terms = dict(self.objective(views, self.progress).terms)
        if self.self_distillation is not None:
            terms["distillation"] = self.self_distillation.distance(self.objective.trained, views)
        return terms

    def _read(self) -> None:
        if self.probe is None:
            return
        with self.trainer.precision_plugin.forward_context():  # as cheap as a forward pass in training
            found = self.probe.read(self.objective, self.global_step, self.progress)
        reading: ProbeReading = self.trainer.strategy.broadcast(found)
        alarms = self.guard.take(reading)
        if self.guard.best is reading:
            self._keep()
        self.tracker.metrics(self._named(reading), self.global_step)
        if self.global_step:  # Lightning accepts no metric before the first step
            for name, value in self._named(reading).items():
                self.log(name, value, prog_bar=True, logger=False)
        self._warn(alarms)
        self._act()

    def _named(self, reading: ProbeReading) -> dict[str, float]:
        assert self.probe is not None
        figures = {f"guard_{name}": value for name, value in reading.figures().items() if name != "knn"}
        return figures | {f"knn_{self.probe.question}": reading.knn}

    def _warn(self, alarms: list[Alarm]) -> None:
        """Warn about each kind of alarm when it begins."""
        texts = {alarm.text.partition(" is ")[0]: alarm.text for alarm in alarms}
        for topic in sorted(texts.keys() - self._warned if self.trainer.is_global_zero else ()):
            level = (
                logging.WARNING if self.global_step else logging.INFO
            )  # random initial weights often give near-equal features
            seen = self.length.described(self.global_step)
            log.log(level, "guard at step %d (%s): %s", self.global_step, seen, texts[topic])
        self._warned = set(texts)

    def _act(self) -> None:
        action, best = self.guard.config.action, self.guard.best
        if not self.guard.verdict or best is None:
            return
        if action == "stop":
            raise TrainingError(
                f"the guard stopped the run at step {self.global_step}: {self.guard.verdict}; the best weights, "
                f"of step {best.step}, are in {self.best_path}; lower optim.lr, or choose guard=rollback, and "
                "train again"
            )
        if action == "rollback":
            self.trainer.should_stop = True

    def _keep(self) -> None:
        state = whole(self.objective.backbone.state_dict())
        if self.trainer.is_global_zero:
            write_weights(self.best_path, state)
