"""Commands of medvit as separate processes, with their cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

FINE = (0, 3)
"""Exit statuses of a stage with output; 3 means that some items failed, or the guard rolled back."""


@dataclass(frozen=True)
class Cost:
    """Cost of a command: wall-clock and processor minutes, peak memory, and exit status."""

    minutes: float
    cpu_minutes: float
    peak_mib: float
    status: int


def run_once(stage: str, output: Path, *words: str, key: str = "output") -> Cost:
    """Run a command that makes a folder, unless the folder exists already; return the cost of the command.

    Log and cost are stored next to the folder. An interrupted command is resumed, and its cost is that of its last
    process.

    Raises:
        SystemExit: If the command fails.
    """
    noted = output.with_name(f"{output.name}.cost.json")
    if output.is_dir() and noted.is_file():
        return Cost(**json.loads(noted.read_text()))
    if (output.parent / f"{output.name}.partial").is_dir():
        words = (*words, "resume=true")
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_name(f"{output.name}.log")
    print(f"{time.strftime('%H:%M:%S')} {stage} {output.name}", flush=True)
    cost = _run([sys.executable, "-m", "pipelines", stage, f"{key}={output}", "tracking.enabled=false", *words], log)
    if cost.status not in FINE:
        raise SystemExit(f"medvit {stage} ended with status {cost.status}: see {log}")
    noted.write_text(json.dumps(asdict(cost)) + "\n")
    return cost


def _run(command: list[str], log: Path) -> Cost:
    started = time.perf_counter()
    with log.open("a") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=subprocess.STDOUT)
    _, status, usage = os.wait4(process.pid, 0)  # like `wait` of the process, with its resource usage
    process.returncode = os.waitstatus_to_exitcode(status)
    minutes = (time.perf_counter() - started) / 60
    return Cost(minutes, (usage.ru_utime + usage.ru_stime) / 60, usage.ru_maxrss / 1024, process.returncode)
