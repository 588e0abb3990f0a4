"""Times that are comparable on a machine with other load."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True)
class Timing:
    """Seconds of one task, over its repeats: wall-clock and processor time, including finished children."""

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median wall-clock time of the repeats."""
        return statistics.median(self.seconds)

    @property
    def halved(self) -> Timing:
        """Timing of a single task if this is the timing of two that ran together: half of the total."""
        return Timing(*(tuple(one / 2 for one in times) for times in (self.seconds, self.cpu_seconds)))

    @property
    def cpu_median(self) -> float:
        """Median processor time of the repeats, which matters while others use the machine too."""
        return statistics.median(self.cpu_seconds)


def alternate(tasks: Mapping[str, Callable[[Path], object]], *, repeats: int) -> dict[str, Timing]:
    """Time all tasks alternately, so that a slow minute of the machine affects all equally.

    Each repeat has its own order: after a long task, other files and memory are slow at first. Each task gets a new
    empty folder, whose removal is not timed. A first repeat, which fills caches and does lazy imports, is not counted.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    for number in range(repeats + 1):
        for name in random.Random(number).sample(sorted(tasks), len(tasks)):
            task = tasks[name]
            with TemporaryDirectory(prefix="medvit-bench-") as folder:
                started, cpu_started = time.perf_counter(), sum(os.times()[:4])
                task(Path(folder))
                took = time.perf_counter() - started, sum(os.times()[:4]) - cpu_started
            if number:
                seconds[name].append(took)
    return {name: Timing(*map(tuple, zip(*times, strict=True))) for name, times in seconds.items()}


def print_rates(title: str, times: Mapping[str, Timing], count: int, *, digits: int = 0) -> None:
    """Print the rate of each task for `count` tiles, relative to the first one, and its processor time."""
    rates = {name: count / timing.median for name, timing in times.items()}
    first = next(iter(rates))
    rows = [
        (name, f"{rate:.{digits}f}", f"{rate / rates[first]:.2f}", f"{1e3 * times[name].cpu_median / count:.2f}")
        for name, rate in rates.items()
    ]
    print_table(title, ("", "tiles/s", "times the first", "CPU ms a tile"), rows)


def print_table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table: the first column left-aligned, numbers right-aligned."""
    widths = [max(len(row[n]) for row in [columns, *rows]) for n in range(len(columns))]
    print(f"\n{title}")
    for row in [columns, tuple("-" * width for width in widths), *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  " + "  ".join(cells))
