"""Profiling of a few training steps: FLOPs, memory and time, assumed to be the same in all other steps of the run."""

from __future__ import annotations

import contextlib
import resource
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from medvit.training.proposals.memory import StoredBytes, stored_for_backward

WARMUP_STEPS = 2
"""Number of untimed warm-up steps: operations are counted in the first, and the second still allocates memory."""


@dataclass
class Measured:
    """Measured cost of a training step; NaN for durations and FLOPs that are not measured yet."""

    step_s: float = float("nan")
    """Median duration of a step in seconds, including the loading of its images."""
    epoch_end_s: float = float("nan")
    """Seconds for validation, probe evaluation and pictures at the end of an epoch."""
    flops: float = float("nan")
    """FLOPs of matrix products, convolutions and attention, forward and backward; a multiply-add counts as two."""
    activation_bytes: int = 0
    """Bytes of activations kept for the backward pass."""
    peak_bytes: int = 0
    """Peak memory of the GPU in bytes; without a GPU, of this process with all its libraries."""
    _steps: list[float] = field(default_factory=list, repr=False)


class Meter(Checkpoint):
    """Callback that measures the steps of a short run.

    It is a checkpoint callback, because Lightning calls these last: its times include those of all other callbacks.
    """

    def __init__(self) -> None:
        self.measured = Measured()
        self._stack = contextlib.ExitStack()
        self._counter: FlopCounterMode | None = None
        self._stored = StoredBytes()
        self._since = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._since = time.perf_counter()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count FLOPs and stored activations in the very first batch."""
        if batch_idx == 0:
            self._counter = FlopCounterMode(display=False, custom_mapping=attention_on_cpu())
            self._stack.enter_context(self._counter)
            self._stored = self._stack.enter_context(stored_for_backward(pl_module))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *batch_and_outputs: Any
    ) -> None:
        """Record the time of a step."""
        done = batch_and_outputs[2] + 1
        accumulated = trainer.accumulate_grad_batches
        if done == 1 and self._counter is not None:
            self._stack.close()
            self.measured.flops = float(self._counter.get_total_flops()) * accumulated
            self.measured.activation_bytes = self._stored.num_bytes
        if done % accumulated == 0:
            synchronize()
            now = time.perf_counter()
            self.measured._steps.append(now - self._since)
            self._since = now

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compute the durations of a step and of the end of the epoch, and the peak memory."""
        self.measured.epoch_end_s = time.perf_counter() - self._since
        self.measured.step_s = statistics.median(self.measured._steps[WARMUP_STEPS:])
        self.measured.peak_bytes = peak_bytes_held()


def attention_on_cpu() -> dict[Any, Any]:
    """Return FLOP formulas for torch's attention on a CPU, which torch's FLOP counter lacks."""
    aten = torch.ops.aten

    def forward(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
        return int(sdpa_backward_flop_count(grad, query, key, value))

    return {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def synchronize() -> None:
    """Wait for the GPU to finish."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes_held() -> int:
    """Return the peak memory in bytes of the GPU or, without one, of this process with all its libraries."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
