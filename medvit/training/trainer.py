"""Lightning trainer: hardware, precision, progress with time left, checkpoints to resume from."""

from __future__ import annotations

import re
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger

from medvit.backbones import convolutions
from medvit.config import Config, Count
from medvit.errors import ConfigError
from medvit.hardware import half_precision, keep_freed_memory
from medvit.progress import Progress
from medvit.tracking import Tracker
from medvit.training.resume import RESUME, KeepLast
from medvit.training.sharding import sharded_strategy
from medvit.types import RunLength

Trainer: TypeAlias = lightning.Trainer
"""Type of the trainer, for modules that do not import Lightning themselves."""
BLOCK = re.compile(r"(^|\.)blocks\.\d+$")
"""Pattern of the names of transformer blocks, in backbones and decoders."""
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


class TrainerOptions(Config):
    """Duration, hardware and precision of training."""

    RENAMED: ClassVar[Mapping[str, str]] = {"rounds": "epochs", "round_steps": "steps_per_epoch"}

    epochs: Count | None = None
    """Number of epochs. An epoch is a fixed number of steps, not a pass over all images. Unset: proposed from the
    number of images and the task; 10 for whole slides.
    """
    steps_per_epoch: Count | None = None
    """Optimizer steps per epoch. After each epoch, the weights are saved, and evaluated on the val split. Unset: about
    one pass over the training images; 100 for whole slides.
    """
    precision: Precision = "auto"
    """Numeric precision. The value auto uses bf16 if the hardware supports it, else fp16 on a GPU and fp32 on a CPU."""
    devices: Count = 1
    """Number of GPUs to use on each machine. On machines without a GPU, it is the number of CPU processes."""
    nodes: Count = 1
    """Number of machines. Slurm or torchrun must start the processes."""
    strategy: str = "auto"
    """Parallel strategy. auto and ddp: all weights are on each device. fsdp (FSDP2): blocks and heads are sharded, for
    models that do not fit on one device. Other strategy names of Lightning are accepted.
    """
    accumulate: Count | None = None
    """Number of batches whose gradients are accumulated in each step. Unset: 1, or more if the proposed batch does not
    fit into the memory of the device.
    """
    compile: bool = False
    """Compile each transformer block (torch.compile). The first steps are slow, later ones are faster on a GPU, and
    results differ by rounding. Needs a C++ compiler.
    """

    def over(self, proposed: Mapping[str, object]) -> TrainerConfig:
        """Return complete options: the given ones, then the proposed ones, then the defaults."""
        return TrainerConfig.parse({**proposed, **self.model_dump(exclude_none=True)})


class TrainerConfig(TrainerOptions):
    """Duration, hardware and precision of training, all specified."""

    epochs: Count = 10
    """Number of epochs. An epoch is a fixed number of steps, not a pass over all images."""
    steps_per_epoch: Count = 100
    """Optimizer steps per epoch. After each epoch, the weights are saved, and evaluated by the probes."""
    accumulate: Count = 1
    """Number of batches whose gradients are accumulated in each step."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def batches_per_epoch(self) -> int:
        """Batches per epoch."""
        return self.steps_per_epoch * self.accumulate

    def step_images(self, batch_size: int) -> int:
        """Images per step, over all devices and all batches whose gradients are accumulated."""
        return batch_size * self.accumulate * self.devices * self.nodes

    @property
    def in_force(self) -> TrainerConfig:
        """Trainer options, with `auto` replaced by the values for this machine."""
        is_alone = self.devices * self.nodes == 1
        strategy = "ddp" if self.strategy == "auto" and not is_alone else self.strategy
        return self.model_copy(update={"precision": resolve_precision(self.precision), "strategy": strategy})

    def build(self, folder: Path, tracker: Tracker, clip: float) -> lightning.Trainer:
        """Return a trainer that stores the state to resume from in `folder`.

        Raises:
            ConfigError: If weights are to be sharded at a precision that does not support it.
        """
        cpu, precision = not torch.cuda.is_available(), resolve_precision(self.precision)
        if self.strategy == "fsdp" and precision == "16-mixed":
            raise ConfigError(
                "trainer.strategy=fsdp does not work with fp16; set trainer.precision=bf16-mixed or 32-true"
            )
        if cpu:
            keep_freed_memory()
            convolutions.install()
        # Lightning cannot know that the loader starts at the batch where the run was interrupted.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
        # Without validation images, the last weights are kept.
        warnings.filterwarnings("ignore", message=".*have no `val_dataloader`")
        return lightning.Trainer(
            default_root_dir=folder,
            accelerator="cpu" if cpu else "gpu",
            devices=self.devices,
            num_nodes=self.nodes,
            strategy=sharded_strategy(self.devices * self.nodes) if self.strategy == "fsdp" else self.strategy,
            precision=precision,
            max_epochs=self.epochs,
            accumulate_grad_batches=self.accumulate,
            gradient_clip_val=clip,
            logger=_TrackerLogger(tracker),
            log_every_n_steps=min(10, self.batches_per_epoch),
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=False,
            callbacks=[KeepLast(folder / RESUME), StepProgress(), *([CompileBlocks()] if self.compile else [])],
            use_distributed_sampler=False,
            inference_mode=False,
        )


def resolve_precision(precision: Precision) -> Precision:
    """Return the precision, with `auto` replaced by its value on this machine."""
    if precision != "auto":
        return precision
    dtype = half_precision(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return {None: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}[dtype]  # type: ignore[return-value]


class CompileBlocks(Callback):
    """Callback that compiles transformer blocks one by one, in place; blocks of equal shape are compiled only once."""

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compile the blocks; names of weights do not change."""
        for name, unit in pl_module.named_modules():
            if BLOCK.search(name):
                unit.compile()


class StepProgress(Callback):
    """Progress bar over all steps of the run.

    It shows the time left, selected metrics, and the number of passes over the training data.
    """

    def __init__(self) -> None:
        self._progress = Progress(0, title="", is_shown=False)  # an error before the first step expects a bar to close

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin where the resumed run continues."""
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 1) // trainer.accumulate_grad_batches
        self._progress = Progress(
            total, title="Training", unit="step", done=trainer.global_step, is_shown=trainer.is_global_zero
        )

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *batch_and_outputs: Any
    ) -> None:
        """Advance by one step."""
        values = dict(trainer.progress_bar_metrics)
        if isinstance(length := getattr(pl_module, "length", None), RunLength):
            values["passes"] = length.passes(trainer.global_step)
        self._progress.note = ", ".join(f"{name}={value:.3g}" for name, value in values.items())
        self._progress.update(trainer.global_step - self._progress.n)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Close the bar."""
        self._progress.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the message is on a line of its own."""
        self._progress.close()


class _TrackerLogger(Logger):
    """Lightning logger that passes metrics to the tracker of the stage."""

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
        """Ignore hyperparameters: the stage records its whole config."""
