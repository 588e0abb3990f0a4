"""Progress over many items: a bar on a terminal, and occasional lines in a log file or the output of a batch job.

tqdm alone does not suffice: into a file or a pipe, it writes two updates of its bar per second, all on one line.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import parent_process
from threading import Lock
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm

from medvit import logs
from medvit.summary import counted, duration

log = logging.getLogger("medvit")

FIRST_S, LONGEST_S = 10.0, 300.0
"""Seconds until the first progress line, and maximum seconds between two lines."""
SHARE = 0.1
"""Time between two progress lines, as a fraction of the elapsed time. It is at least `FIRST_S` and at most `LONGEST_S`,
so a run of one night writes about 100 lines.
"""
BYTES, MIB = "B", 2**20
CountedT = TypeVar("CountedT")


class Progress:
    """Number of finished items out of a total, updated in place.

    A line shows count, rate and remaining time. Items that an earlier run finished (`done`) do not enter rate and
    remaining time. Work shorter than `FIRST_S` does not write a line. Several threads may update the progress at once.
    """

    def __init__(
        self,
        total: int,
        *,
        title: str,
        unit: str = "item",
        done: int = 0,
        is_shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.title, self.unit, self.n = total, title, unit, done
        self.note = ""
        """Extra text of a line, such as the present loss."""
        self._first, self._is_shown, self._clock = done, is_shown, clock
        self._started = self._last = clock()
        self._wait = FIRST_S
        self._lock = Lock()
        # Bars of several processes would overwrite each other, and tqdm's lock would outlive a worker that is killed.
        in_terminal = is_shown and sys.stderr.isatty() and parent_process() is None
        self._bar = self._new_bar() if in_terminal else None

    def _new_bar(self) -> tqdm[Any]:
        return tqdm(
            total=self.total,
            initial=self.n,
            desc=self.title,
            unit=self.unit,
            unit_scale=self.unit == BYTES,
            unit_divisor=1024 if self.unit == BYTES else 1000,
            mininterval=0.5,
        )

    def update(self, number: int = 1) -> None:
        """Count `number` more items as finished."""
        with self._lock:
            self.n += number
            if self._bar is not None:
                self._bar.set_postfix_str(self.note, refresh=False)
                self._bar.update(number)
            now = self._clock()
            if self._is_shown and now - self._last >= self._wait and self.n < self.total:
                self._last = now
                self._wait = min(LONGEST_S, max(FIRST_S, SHARE * (now - self._started)))
                self._write(self._line(now))

    def close(self) -> None:
        """Remove the bar, and write a last line if the work took at least `FIRST_S`.

        After an earlier run, the line states the items of both runs, then those of this run with their duration.
        """
        if self._bar is not None:
            self._bar.close()
        elapsed, number = self._clock() - self._started, self.n - self._first
        if self._is_shown and elapsed >= FIRST_S and number:
            is_whole = self.n >= self.total and not self._first
            done = self._amount(self.n, of=None if is_whole else self.total)
            new = f", {self._amount(number)} of them" if self._first else ""
            self._write(f"{self.title}: {done}{new} in {duration(elapsed)}, {self._rate(number / elapsed)}")
        self._is_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _write(self, line: str) -> None:
        """Write a line to the log file, and to the terminal unless it shows the bar."""
        tell = log.info if self._bar is None else logs.note
        tell("%s", line)

    def _line(self, now: float) -> str:
        rate = (self.n - self._first) / max(1e-9, now - self._started)
        left = f"{duration((self.total - self.n) / rate)} left" if rate else "time left unknown"
        share = f"{self.n / self.total:.0%}"
        note = f"; {self.note}" if self.note else ""
        done = f"{self._amount(self.n, of=self.total)} ({share})"
        return f"{self.title}: {done}, {self._rate(rate)}, {left}{note}"

    def _amount(self, number: int, *, of: int | None = None) -> str:
        if self.unit == BYTES:
            return f"{number / MIB:.1f} MiB" if of is None else f"{number / MIB:.1f} of {of / MIB:.1f} MiB"
        return counted(number, self.unit) if of is None else f"{number} of {counted(of, self.unit)}"

    def _rate(self, rate: float) -> str:
        if self.unit == BYTES:
            return f"{rate / MIB:.1f} MiB/s"
        return f"{rate:.3g} {self.unit}/s" if rate >= 1 or not rate else f"{1 / rate:.3g} s/{self.unit}"


def with_progress(
    items: Iterable[CountedT], *, total: int, title: str, unit: str = "item", is_shown: bool = True
) -> Iterator[CountedT]:
    """Yield items and show the progress; an item counts as finished when the next item is requested."""
    with Progress(total, title=title, unit=unit, is_shown=is_shown) as progress:
        for item in items:
            yield item
            progress.update()
