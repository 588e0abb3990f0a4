"""State to resume an interrupted run from: written after every epoch, and when the process is asked to stop."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint

from medvit.errors import CheckpointError

RESUME, BEST = "last.ckpt", "best.safetensors"
LEFTOVERS = (RESUME, BEST)
"""Files that only an unfinished run needs."""
POSITION = "medvit_position"
"""Key of the progress of the run (`Position`) in the checkpoint."""
POLITE = (signal.SIGTERM, signal.SIGUSR1)
"""Signals by which Slurm and other schedulers announce the time limit (`--signal=USR1@120` sends the second)."""


@dataclass(frozen=True)
class Position:
    """Progress of a run: the number of completed epochs, and of batches in the current epoch."""

    epochs: int = 0
    batches: int = 0


class KeepLast(Checkpoint):
    """Atomic writer of the state to resume from: after every epoch, and at the step at which a signal came.

    Signals are handled between two steps, when weights, optimizer and teacher are consistent; then the run ends as
    interrupted. All processes of a run stop at the same step, even if the signal reaches only one. Because it is a
    checkpoint callback of Lightning, it runs after the module's own hooks at the end of the epoch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_asked = False
        self._position = Position()
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Handle the signals from now on."""
        if threading.current_thread() is threading.main_thread():  # other threads cannot handle signals
            self._before = {number: signal.signal(number, self._note) for number in POLITE}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *batch_and_outputs: Any
    ) -> None:
        """Save and stop if a signal has come, unless gradients are being accumulated."""
        done = batch_and_outputs[2] + 1
        if done % trainer.accumulate_grad_batches or done >= trainer.num_training_batches:
            return
        if self._asked(trainer):
            self._save(trainer, Position(trainer.current_epoch, done))
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Replace the last checkpoint, and stop if a signal has come."""
        self._save(trainer, Position(trainer.current_epoch + 1))
        if self._asked(trainer):
            raise KeyboardInterrupt

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Restore the previous signal handlers."""
        self._restore()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Restore the previous signal handlers."""
        self._restore()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the progress of the run (`Position`) into the checkpoint."""
        checkpoint[POSITION] = [self._position.epochs, self._position.batches]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._is_asked = True

    def _asked(self, trainer: lightning.Trainer) -> bool:
        if trainer.world_size == 1:
            return self._is_asked
        return bool(trainer.strategy.reduce_boolean_decision(self._is_asked, all=False))

    def _save(self, trainer: lightning.Trainer, position: Position) -> None:
        self._position = position
        partial = self.path.with_name(f".{self.path.name}.partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.replace(partial, self.path)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint from which an unfinished run in a folder can resume, if there is one."""
    path = folder / RESUME
    return path if path.is_file() else None


def position_of(path: Path | None) -> Position:
    """Return the progress of the run of a checkpoint.

    Raises:
        CheckpointError: If the file is damaged.
    """
    if path is None:
        return Position()
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return Position(*state[POSITION])
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be resumed from; remove it to start again") from error
