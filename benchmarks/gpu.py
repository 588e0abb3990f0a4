"""Pretraining on a GPU: images per second, model FLOP utilization and peak memory of ViT-S, B and L by MAE and DINOv2.

Crops are generated once and remain on the device, so that neither disk nor CPU is measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import print_table
from medvit.backbones.vit import VitConfig
from medvit.hardware import half_precision
from medvit.objectives import Objective
from medvit.objectives.dinov2 import DinoV2Config
from medvit.objectives.mae import MaeConfig
from medvit.training.optim import OptimConfig
from medvit.training.planning.profiling import attention_on_cpu, peak_bytes_held, synchronize
from medvit.types import Views

WARMUP_STEPS, MATRIX_SIDE, MATRIX_REPEATS = 3, 8192, 20
CHANNELS = 3


@dataclass(frozen=True)
class Case:
    """Training to measure: a transformer, the side of its crops, and images per step."""

    backbone: VitConfig
    objective: MaeConfig | DinoV2Config
    side: int
    batch: int

    @property
    def name(self) -> str:
        """Description of the training, for a table."""
        return f"{self.objective.name}, ViT {self.backbone.size}, {self.batch} images"

    def views(self, device: torch.device) -> Views:
        """Return crops of noise for each image: one for MAE, else two global and eight smaller local crops."""
        shape = (self.batch, CHANNELS, self.side, self.side)
        if isinstance(self.objective, MaeConfig):
            return Views(torch.randn(1, *shape, device=device))
        patch = self.backbone.patch_size
        assert isinstance(patch, int), "the cases name one side for both axes"
        small = self.objective.views.fitted((self.side,) * 2, (patch,) * 2).local_size
        return Views(torch.randn(2, *shape, device=device), torch.randn(8, *shape[:2], *small, device=device))


@dataclass(frozen=True)
class Figures:
    """Measurements of a training on one device."""

    images_s: float
    flop_s: float
    """Floating-point operations per second, forward and backward; a multiply-add counts as two."""
    peak_bytes: int


def cases() -> list[Case]:
    """Return the trainings to measure: ViT-S, B and L, as in the papers, with batches that fit into 80 GiB."""
    batches = {"small": (512, 64), "base": (256, 48), "large": (128, 24)}
    found = []
    for size, (mae, dinov2) in batches.items():
        of = partial(VitConfig, size=size, ndim=2, channels=CHANNELS)
        found.append(Case(of(patch_size=16), MaeConfig(), 224, mae))
        found.append(Case(of(patch_size=14, layer_scale=1e-5, drop_path=0.1), DinoV2Config(), 224, dinov2))
    return found


def run(folder: Path, repeats: int) -> None:
    """Print the measurements, or the reason why they are missing."""
    if not torch.cuda.is_available():
        print("skipped: gpu: this machine has no GPU that torch can use")
        return
    device = torch.device("cuda")
    peak = matmul_rate(device, MATRIX_SIDE)
    print_figures(
        f"{torch.cuda.get_device_name()}, {peak / 1e12:.0f} TFLOP/s in matrix products",
        peak,
        [(case.name, measure(case, device, steps=5 * repeats)) for case in cases()],
    )


def print_figures(title: str, peak: float, measured: Sequence[tuple[str, Figures]]) -> None:
    """Print a line per training; utilization is relative to the measured rate of large matrix products."""
    lines = [
        (
            name,
            f"{one.images_s:.1f}",
            f"{one.flop_s / 1e12:.2f}",
            f"{one.flop_s / peak:.1%}",
            f"{one.peak_bytes / 2**30:.2f}",
        )
        for name, one in measured
    ]
    print_table(title, ("", "images/s", "TFLOP/s", "utilization", "peak GiB"), lines)


def matmul_rate(device: torch.device, side: int) -> float:
    """Return operations per second of square matrix products in the device's 16-bit type, else in float32."""
    left, right = (torch.randn(side, side, device=device, dtype=half_precision(device)) for _ in range(2))
    seconds = []
    for _ in range(MATRIX_REPEATS):
        synchronize()
        started = time.perf_counter()
        left @ right
        synchronize()
        seconds.append(time.perf_counter() - started)
    return 2.0 * side**3 / min(seconds)


def measure(case: Case, device: torch.device, *, steps: int) -> Figures:
    """Measure whole steps, including optimizer and teacher."""
    torch.manual_seed(0)
    objective = case.objective.build(case.backbone.build()).to(device)
    optimizer = OptimConfig().build(objective, objective.backbone.depth)
    views = case.views(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    counter = FlopCounterMode(display=False, custom_mapping=attention_on_cpu())
    with counter:
        _step(objective, optimizer, views)
    seconds = []
    for _ in range(WARMUP_STEPS + steps):
        synchronize()
        started = time.perf_counter()
        _step(objective, optimizer, views)
        synchronize()
        seconds.append(time.perf_counter() - started)
    step_s = statistics.median(seconds[WARMUP_STEPS:])
    return Figures(case.batch / step_s, counter.get_total_flops() / step_s, peak_bytes_held())


def _step(objective: Objective, optimizer: torch.optim.Optimizer, views: Views) -> None:
    device, dtype = views.crops.device.type, half_precision(views.crops.device)
    with torch.autocast(device, dtype, enabled=dtype is not None):
        losses = objective(views, 0.5)
    optimizer.zero_grad()
    losses.total.backward()
    for part in objective.parts():
        torch.nn.utils.clip_grad_norm_(part, 3.0)
    optimizer.step()
    objective.after_step(0.5)
