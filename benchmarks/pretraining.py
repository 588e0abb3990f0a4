"""Pretraining compared with lightly-train and a plain loop of the papers' algorithms: speed and memory.

Each program trains ViT-S in bf16 with 16 images per step, on the same images, in a process of its own. The crops have
the same number and sizes (DINOv2: patches of 14, 2 crops of 224 and 8 of 98 pixels, 65536 prototypes, drop path 0.1;
MAE: patches of 16, one crop of 224), and are made in the process that trains.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import lightly
from benchmarks.sources import photographs
from benchmarks.timing import print_table
from pipelines.ingest import ingest

BATCH, COUNTED_STEPS = 16, 3
"""Images per step; timed steps of each process, after one warm-up step."""
OWN, PLAIN, LIGHTLY = "medvit", "plain loop", "lightly-train 0.18"


@dataclass(frozen=True)
class Contender:
    """Program to compare: its training command for an empty folder, and a function that reads its step times there."""

    command: Callable[[Path], Sequence[str]]
    seconds: Callable[[Path], list[float]]


@dataclass
class Measured:
    """Seconds of steps, and peak memory of a process."""

    step_s: list[float] = field(default_factory=list)
    peak_mib: float = 0.0


def run(folder: Path, repeats: int, environment: Path) -> None:
    """Print images per second and peak memory; lightly-train takes part if its environment exists."""
    images = photographs(folder / "images", BATCH * (COUNTED_STEPS + 1))
    dataset = folder / "dataset"
    ingest(source=images, dataset=dataset, name="bench", key=folder / "key", tracking={"enabled": False})
    dinov2 = _both("dinov2", dataset)
    if lightly.command_of(environment).is_file():
        dinov2[LIGHTLY] = Contender(
            lambda output: lightly.command(environment, images, output, batch=BATCH), lightly.step_seconds
        )
    else:
        print(
            "skipped: lightly-train is not installed; `python -m benchmarks pretraining --with-lightly` "
            "creates its environment"
        )
    num_repeats = max(1, repeats // 2)
    _print("DINOv2, ViT-S/14, 2 crops of 224 and 8 of 98 pixels", _measure(dinov2, num_repeats))
    _print("MAE, ViT-S/16, 224 pixels", _measure(_both("mae", dataset), num_repeats))


def _both(objective: str, dataset: Path) -> dict[str, Contender]:
    def of(who: str) -> Contender:
        command = [sys.executable, "-m", "benchmarks.contender", who, objective, str(dataset), str(COUNTED_STEPS + 1)]
        return Contender(lambda _: command, lambda output: json.loads(_last_line(output / "printed"))["step_s"])

    return {OWN: of("medvit"), PLAIN: of("plain")}


def _measure(contenders: Mapping[str, Contender], num_repeats: int) -> dict[str, Measured]:
    """Run all contenders alternately, `num_repeats` times."""
    measured = {name: Measured() for name in contenders}
    for _ in range(num_repeats):
        for name, contender in contenders.items():
            with TemporaryDirectory(prefix="medvit-bench-") as folder:
                output = Path(folder) / "output"
                output.mkdir()
                peak = _run_alone(contender.command(output), output)
                measured[name].step_s += contender.seconds(output)
                measured[name].peak_mib = max(measured[name].peak_mib, peak)
    return measured


def _run_alone(command: Sequence[str], output: Path) -> float:
    """Return the peak MiB of a process that uses all cores; its output goes to a file."""
    own = {"OMP_NUM_THREADS": str(os.cpu_count()), "LIGHTLY_TRAIN_EVENTS_DISABLED": "1"}
    with (output / "printed").open("w") as printed, (output / "errors").open("w") as errors:
        process = subprocess.Popen(command, stdout=printed, stderr=errors, env=os.environ | own)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command[:4])} failed:\n" + (output / "errors").read_text()[-2000:])
    return usage.ru_maxrss / 1024


def _last_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[-1]


def _print(title: str, measured: Mapping[str, Measured]) -> None:
    medians = {name: statistics.median(one.step_s) for name, one in measured.items()}
    lines = [
        (
            name,
            f"{1 / medians[name]:.3f}",
            f"{BATCH / medians[name]:.2f}",
            f"{medians[name] / medians[OWN]:.2f}",
            f"{one.peak_mib:.0f}",
            f"{measured[OWN].peak_mib / one.peak_mib:.2f}",
        )
        for name, one in measured.items()
    ]
    print_table(title, ("", "steps/s", "images/s", "medvit's lead", "peak MiB", "medvit's share of it"), lines)
