"""BatchState of a batch, read from its folder without changing it."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from medvit.errors import ConfigError, OutputError
from medvit.inference.outcomes import BatchOutcomes, outcome_of
from medvit.inference.worklist import DATABASE, LEASE_S, RUNNING, WAITING, has_lost
from medvit.summary import duration


@dataclass(frozen=True)
class Running:
    """Study that a process is working on."""

    study: str
    worker: str
    attempt: int
    since: float
    """Time at which the attempt began, in seconds since the epoch."""
    is_lost: bool
    """Whether the process ended, or gives no sign of life: another process will take the study over."""

    def text(self) -> str:
        """Return one line for people."""
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        spent = duration(max(0.0, time.time() - self.since))
        lost = ", which has ended or gives no sign of life" if self.is_lost else ""
        return f"{self.study} since {began} ({spent}), attempt {self.attempt}, {self.worker}{lost}"


@dataclass(frozen=True)
class BatchState:
    """BatchState of a batch: its outcomes so far, the studies in progress, and the number of studies that wait."""

    folder: Path
    outcomes: BatchOutcomes
    running: tuple[Running, ...]
    num_waiting: int

    def text(self) -> str:
        """Return the state as lines for people."""
        counts = self.outcomes.counts
        ended = ", ".join(f"{counts[status]} {status}" for status in ("done", "skipped", "failed"))
        parts = [f"{self.folder}: {ended}, {len(self.running)} running, {self.num_waiting} waiting"]
        if self.running:
            parts += ["running:", *(f"  {one.text()}" for one in self.running)]
        failed = Counter((one.code, one.reason) for one in self.outcomes.all if one.status == "failed")
        if failed:
            parts += ["failed:", *(f"  {number} {code}: {reason}" for (code, reason), number in failed.most_common())]
        return "\n".join(parts)


def state_of(output: Path) -> BatchState:
    """Return the state of a batch, given its output folder.

    Raises:
        ConfigError: If there is no batch in the folder.
        OutputError: If its list of studies cannot be read.
    """
    partial = output.with_name(f"{output.name}.partial")
    folder = next((folder for folder in (partial, output) if (folder / DATABASE).is_file()), None)
    if folder is None:
        raise ConfigError(f"no batch in {output}: it has no list of studies; give the output=... of a batch")
    try:
        with closing(_opened(folder / DATABASE)) as base:
            base.row_factory = sqlite3.Row
            base.execute("BEGIN")  # all queries see the same state
            studies = base.execute("SELECT * FROM studies ORDER BY name").fetchall()
            workers = {row["token"]: row for row in base.execute("SELECT * FROM workers")}
    except sqlite3.Error as error:
        raise OutputError(f"the list of studies in {folder} cannot be read ({error}); try again") from None
    ended = tuple(outcome_of(row) for row in studies if row["status"] not in (WAITING, RUNNING))
    running = tuple(_running(row, workers.get(row["worker"])) for row in studies if row["status"] == RUNNING)
    return BatchState(folder, BatchOutcomes(ended), running, sum(row["status"] == WAITING for row in studies))


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _running(row: sqlite3.Row, worker: sqlite3.Row | None) -> Running:
    name = "a process" if worker is None else worker["name"]
    is_lost = worker is None or has_lost(worker, LEASE_S)
    return Running(row["name"], name, row["attempts"], row["since"], is_lost)
