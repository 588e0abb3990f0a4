"""Times that can be compared on a machine that does other work too."""

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
    """Seconds of one thing, over its repeats: by the clock, and of processor time, ended children included."""

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the repeats, by the clock."""
        return statistics.median(self.seconds)

    @property
    def halved(self) -> Timing:
        """The times of one of two things that were done together."""
        return Timing(*(tuple(one / 2 for one in times) for times in (self.seconds, self.cpu_seconds)))

    @property
    def cpu_median(self) -> float:
        """The median of the repeats, in processor time: what counts where others use the machine too."""
        return statistics.median(self.cpu_seconds)


def alternate(tasks: Mapping[str, Callable[[Path], object]], *, repeats: int) -> dict[str, Timing]:
    """Time every task in turn, and all of them again, so that a slow minute of the machine hits all alike.

    Each round has an order of its own: after a long task, files and memory that it did not use are slow at first. Each
    task is given a new empty folder, whose removal is not timed. A first round, which fills caches and imports what is
    imported where it is used, is not counted.
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
    """Print how many of `count` tiles each task makes a second, beside the first one, and the processor's time."""
    rates = {name: count / timing.median for name, timing in times.items()}
    first = next(iter(rates))
    rows = [
        (name, f"{rate:.{digits}f}", f"{rate / rates[first]:.2f}", f"{1e3 * times[name].cpu_median / count:.2f}")
        for name, rate in rates.items()
    ]
    print_table(title, ("", "tiles/s", "times the first", "CPU ms a tile"), rows)


def print_table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table: the first column to the left, numbers to the right."""
    widths = [max(len(row[n]) for row in [columns, *rows]) for n in range(len(columns))]
    print(f"\n{title}")
    for row in [columns, tuple("-" * width for width in widths), *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  " + "  ".join(cells))
