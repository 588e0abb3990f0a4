"""The Lightning trainer: hardware, precision, progress with time left, checkpoints to resume from."""

from __future__ import annotations

import os
import pickle
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers.logger import Logger
from tqdm import tqdm

from medvit.config import Config, Count
from medvit.errors import CheckpointError
from medvit.hardware import half_precision
from medvit.tracking import Tracker

RESUME, BEST = "last.ckpt", "best.safetensors"
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


class TrainerConfig(Config):
    """How long, on what, how exactly."""

    rounds: Count = 10
    """Rounds in all."""
    round_steps: Count = 100
    """Optimizer steps of a round; it ends with a checkpoint, a validation and a reading of the monitors."""
    precision: Precision = "auto"
    """auto: bf16 where the hardware computes in it, else fp16 on a GPU and fp32 on a CPU."""
    devices: Count = 1
    """GPUs of this machine, or of each node; without a GPU, processes."""
    nodes: Count = 1
    """Machines, as started by Slurm or torchrun."""
    strategy: str = "auto"
    """Lightning's strategy, such as ddp or fsdp."""
    accumulate: Count = 1
    """Batches whose gradients are added up in one step."""

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.rounds * self.round_steps

    @property
    def round_batches(self) -> int:
        """Batches of a round."""
        return self.round_steps * self.accumulate

    def step_images(self, batch_size: int) -> int:
        """Images of a step: of all devices and all batches whose gradients are added up."""
        return batch_size * self.accumulate * self.devices * self.nodes

    def build(self, folder: Path, tracker: Tracker, clip: float) -> lightning.Trainer:
        """A trainer that keeps what it needs to resume in `folder`."""
        cpu = not torch.cuda.is_available()
        return lightning.Trainer(
            default_root_dir=folder,
            accelerator="cpu" if cpu else "gpu",
            devices=self.devices,
            num_nodes=self.nodes,
            strategy=self.strategy,
            precision=resolve_precision(self.precision),
            max_epochs=self.rounds,
            accumulate_grad_batches=self.accumulate,
            gradient_clip_val=clip,
            logger=_TrackerLogger(tracker),
            log_every_n_steps=min(10, self.round_batches),
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=False,
            callbacks=[KeepLast(folder / RESUME), StepBar()],
            use_distributed_sampler=False,
            inference_mode=False,
        )


def resolve_precision(precision: Precision) -> Precision:
    """What `auto` means on this machine."""
    if precision != "auto":
        return precision
    dtype = half_precision(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return {None: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}[dtype]  # type: ignore[return-value]


class KeepLast(Checkpoint):
    """Writes what is needed to resume after every round, whole or not at all.

    As Lightning's kind of callback for checkpoints, it comes after the module's own end of the round.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Replaces the last checkpoint."""
        partial = self.path.with_name(f".{self.path.name}.partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.replace(partial, self.path)


class StepBar(Callback):
    """One progress bar over all steps of the run, with the time left and the metrics of the progress line."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Opens the bar where the run goes on."""
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 1) // trainer.accumulate_grad_batches
        self._bar = tqdm(
            total=total,
            initial=trainer.global_step,
            desc="Training",
            unit="step",
            mininterval=1.0,
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *batch_and_outputs: Any
    ) -> None:
        """Moves the bar to the step."""
        shown = {name: f"{value:.3g}" for name, value in trainer.progress_bar_metrics.items()}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Closes the bar."""
        self._bar.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Closes the bar, so that the message stands on a line of its own."""
        self._bar.close()


def last_checkpoint(folder: Path) -> Path | None:
    """Where an unfinished run in a folder can go on, if it has got that far."""
    path = folder / RESUME
    return path if path.is_file() else None


def finished_rounds(path: Path | None) -> int:
    """How many rounds a checkpoint to resume from has behind it.

    Raises:
        CheckpointError: If the file is damaged.
    """
    if path is None:
        return 0
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be resumed from; remove it to start anew") from error
    return int(state["epoch"]) + 1  # Lightning counts the round that was just saved when it is over


def remove_leftovers(folder: Path) -> None:
    """Removes what only an unfinished run needs."""
    for name in (RESUME, BEST):
        (folder / name).unlink(missing_ok=True)


class _TrackerLogger(Logger):
    """Hands Lightning's metrics to the tracker of the stage."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self._tracker = tracker

    @property
    def name(self) -> str:
        return "medvit"

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._tracker.metrics({name: value for name, value in metrics.items() if name != "epoch"}, step or 0)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the stage records its whole config."""
