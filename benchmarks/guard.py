"""Guard of pretraining on real images: a usual learning rate must pass, an absurd one must be rolled back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvit.training.guard import ProbeReading
from medvit.training.guard.probes import Probe
from pipelines.ingest import IngestConfig, ingest
from pipelines.pretrain import PretrainConfig, pretrain

SOURCE = "medmnist/pneumoniamnist-train-val.npz"
MAE = {"name": "mae", "decoder_width": 64, "decoder_depth": 1, "decoder_heads": 2}
HEAD = {"hidden": 64, "bottleneck": 32, "prototypes": 128}
OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "mae": MAE,
    "dino": {"name": "dino", "head": HEAD, "views": {"num_local": 2}},
}
RATES = (1e-4, 1.0)
OFF = {"enabled": False}


def run(data: Path, folder: Path) -> None:
    """Print the verdict of the guard and the time of its probe evaluations, for each objective and learning rate."""
    source, key = data / SOURCE, folder / "site.key"
    made = {
        "source": source,
        "dataset": folder / "dataset",
        "key": key,
        "scanning": {"modality": "DX"},
        "tracking": OFF,
    }
    ingest(IngestConfig.parse(made))
    start = pretrain(PretrainConfig.parse(_options(folder, "start", MAE, lr=1e-3, epochs=2, steps_per_epoch=60)))
    for name, objective in OBJECTIVES.items():
        for lr in RATES:
            options = _options(folder, f"{name}-{lr:g}", objective, lr=lr, epochs=3, steps_per_epoch=100)
            _print(name, lr, PretrainConfig.parse({**options, "checkpoint": start.folder, "peft": "full"}))


def _options(
    folder: Path, output: str, objective: Mapping[str, Any], *, lr: float, epochs: int, steps_per_epoch: int
) -> dict[str, Any]:
    return {
        "dataset": folder / "dataset",
        "output": folder / output,
        "tracking": OFF,
        "preprocess": {"kind": "image", "size": [28, 28]},
        "backbone": {"size": "micro", "patch_size": 7},
        "objective": objective,
        "optim": {"lr": lr},
        "loader": {"batch_size": 32},
        "trainer": {"epochs": epochs, "steps_per_epoch": steps_per_epoch},
    }


def _print(name: str, lr: float, config: PretrainConfig) -> None:
    spent: list[float] = []
    plain = Probe.read

    def timed(self: Probe, *args: Any) -> ProbeReading:
        start = time.perf_counter()
        reading = plain(self, *args)
        spent.append(time.perf_counter() - start)
        return reading

    Probe.read = timed  # type: ignore[method-assign, assignment]
    try:
        start = time.perf_counter()
        folder = pretrain.run(config).artifact.folder
        whole = time.perf_counter() - start
    finally:
        Probe.read = plain  # type: ignore[method-assign]
    card = (folder / "model_card.md").read_text(encoding="utf-8").splitlines()
    print(f"\n{name}, optim.lr={lr:g}: {len(spent)} probe evaluations, {sum(spent):.1f} of {whole:.1f} s")
    print("\n".join(line for line in card if line.startswith(("- guard:", "- guard at"))))
