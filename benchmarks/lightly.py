"""Runner of lightly-train in its own virtual environment; it is never imported because of its license, the AGPL."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from medvit import _torchvision

PACKAGES = ("torch==2.13.0", "torchvision==0.28.0", "lightly-train==0.18.*")
MODEL = "dinov2/vits14-noreg-notpretrained"
"""ViT-S/14 from random weights, with drop path 0.1 and layer scale."""


def install(environment: Path) -> None:
    """Create the environment if it does not exist."""
    if command_of(environment).is_file():
        return
    print(f"installing {', '.join(PACKAGES)} into {environment}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    # The same fix that medvit needs beside a CPU-only torch: see the copied file.
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    shown = subprocess.run([str(python), "-c", where], check=True, capture_output=True, text=True).stdout
    mend = Path(_torchvision.__file__)
    shutil.copy(mend, Path(shown.strip()) / mend.name)
    (Path(shown.strip()) / "sitecustomize.py").write_text(f"import {mend.stem}\n\n{mend.stem}.install()\n")


def command_of(environment: Path) -> Path:
    """Return the path of the lightly-train command."""
    return environment / "bin" / "lightly-train"


def command(environment: Path, images: Path, output: Path, *, batch: int) -> list[str]:
    """Return the command of a DINOv2 training on a folder of images: 2 crops of 224 and 8 of 98 pixels."""
    options = {
        "data": images,
        "out": output / "run",
        "model": MODEL,
        "method": "dinov2",
        "batch_size": batch,
        "epochs": 1,
        "num_workers": 0,
        "precision": "bf16-mixed",
        "accelerator": "cpu",
        "devices": 1,
        "trainer_args": "{log_every_n_steps: 1}",
        "loggers": "{tensorboard: null}",
    }
    return [str(command_of(environment)), "pretrain", *(f"{name}={value}" for name, value in options.items())]


def step_seconds(output: Path) -> list[float]:
    """Return the seconds of each step after the first, including loading, from the log of lightly-train."""
    logged = (output / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.loads(line) for line in logged if "profiling/data_time" in line]
    return [line["profiling/batch_time"] + line["profiling/data_time"] for line in lines]
