"""Prediction of a batch by medvit in a process of its own; prints the time as JSON.

`python -m benchmarks.race_contender PROCESSES OUTPUTS MODEL SOURCE OUTPUT KEY`
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from benchmarks.race import COUNTED, FIRST, THREADS
from pipelines.predict import predict


def main(num_processes: str, outputs: str, model: str, source: str, output: str, key: str) -> None:
    """Predict the first studies to load libraries, and then the others; print their seconds."""
    torch.set_num_threads(THREADS)
    for name in (FIRST, COUNTED):
        started, cpu_started = time.perf_counter(), sum(os.times()[:4])
        predict(
            checkpoint=model,
            source=Path(source) / name,
            output=Path(output) / name,
            key=key,
            outputs=outputs.split(","),
            engine={"num_processes": num_processes},
            tracking={"enabled": False},
        )
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "cpu_seconds": sum(os.times()[:4]) - cpu_started}))


if __name__ == "__main__":
    main(*sys.argv[1:])
