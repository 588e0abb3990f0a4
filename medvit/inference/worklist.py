"""Work list of a batch: its studies and their outcomes, in a database that several processes of one host share.

A process takes a study by a lease: before it starts, its name and the number of the attempt are written to the
database. Its sign of life (heartbeat) is renewed by a thread. If a process ends or gives no sign of life for
`LEASE_S`, its studies return to the list. An outcome is only recorded by the process that still has the lease, in the
same transaction in which the folder of the study gets its final name, so that each study has one result.

The database is SQLite in WAL mode, whose locks are reliable only on a local disk. `status.csv` has one line per study,
`predictions.csv` one line per class of a series; both are written from the database.
"""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from medvit.errors import ConfigError, CrashError, OutputError
from medvit.files.databases import explained
from medvit.files.mounts import mount_of
from medvit.inference.outcomes import BatchOutcomes, StudyOutcome, earlier_outcomes, outcome_of, plain
from medvit.inference.worker import Worker
from medvit.stage import WORK
from medvit.writers import Result

log = logging.getLogger("medvit")

DATABASE = ".worklist.sqlite"
"""Name of the database in the folder of the results."""
LEASE_S, BEAT_S = 120.0, 10.0
"""Seconds without a sign of life after which a process loses its studies, and seconds between two signs. The first is
much longer, because a decoder may keep all threads of a process waiting.
"""
ATTEMPTS = 3
"""Number of attempts for a study on which processes end."""
BUSY_S = 60.0
"""Seconds to wait for other processes that write to the database."""
CLOSE_S = 5.0
"""Seconds to wait at the end for other processes that are about to close the database."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS studies (
    name TEXT PRIMARY KEY, status TEXT NOT NULL DEFAULT 'waiting', code TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '', seconds TEXT NOT NULL DEFAULT '', outputs TEXT NOT NULL DEFAULT '',
    findings TEXT NOT NULL DEFAULT '[]', attempts INTEGER NOT NULL DEFAULT 0, worker TEXT, since REAL
);
CREATE INDEX IF NOT EXISTS studies_by_status ON studies (status, name);
CREATE TABLE IF NOT EXISTS workers (
    token TEXT PRIMARY KEY, name TEXT, boot TEXT, namespace TEXT, pid INTEGER, started TEXT, beat REAL
);
"""
WAITING, RUNNING = "waiting", "running"
"""States of a study without an outcome."""


class Lease(NamedTuple):
    """Right of a process to process a study: no other process has it at the same time."""

    study: str
    attempt: int


class Worklist:
    """Studies of a batch and their outcomes, in the folder of its results.

    With `is_shared=False`, other processes cannot take part, and the folder may be on a network file system.

    Raises:
        ConfigError: If the folder is on a network file system, and the list is to be shared.
        OutputError: If the database cannot be created or read.
    """

    def __init__(
        self, folder: Path, *, is_shared: bool = True, lease_s: float = LEASE_S, beat_s: float = BEAT_S
    ) -> None:
        if is_shared:
            require_local(folder)
        self.folder, self._lease_s, self._beat_s = folder, lease_s, beat_s
        self.worker = Worker.current()
        self._guard = threading.RLock()
        self._path = folder / DATABASE
        with self._explained():
            uri = f"{self._path.absolute().as_uri()}?{'' if is_shared else 'nolock=1'}"
            self._base = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._path.chmod(0o600)
            self._base.row_factory = sqlite3.Row
            self._base.execute(f"PRAGMA journal_mode={'WAL' if is_shared else 'DELETE'}")
            self._base.execute("PRAGMA synchronous=NORMAL")
            with self._transaction():
                for statement in filter(str.strip, SCHEMA.split(";")):
                    self._base.execute(statement)
                self._adopt(earlier_outcomes(folder))
            self._base.execute("CREATE TEMP TABLE here (name TEXT PRIMARY KEY)")

    def _adopt(self, outcomes: Sequence[StudyOutcome]) -> None:
        """Add the studies that an earlier version, whose list was `status.csv`, has done in this folder."""
        rows = [(one.study, "done", one.reason, one.seconds, one.outputs, json.dumps(one.findings)) for one in outcomes]
        self._base.executemany(
            "INSERT OR IGNORE INTO studies (name, status, reason, seconds, outputs, findings) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )

    @contextmanager
    def working(self) -> Iterator[None]:
        """Return a context in which this process can take studies; unfinished ones return to the list at its end."""
        worker = self.worker
        values = (worker.token, worker.name, worker.boot, worker.namespace, worker.pid, worker.started)
        self._write("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?, ?)", *values, time.monotonic())
        self._remove_leftovers()
        self.work.mkdir(parents=True, exist_ok=True)
        is_over = threading.Event()
        pulse = threading.Thread(target=self._beat, args=(is_over,), daemon=True)
        pulse.start()
        try:
            yield
        finally:
            is_over.set()
            pulse.join()
            with suppress(OutputError):  # such as a full disk, after which the lease ends by itself
                self._leave()

    def add(self, names: Collection[str]) -> None:
        """Add the studies that are not in the list yet."""
        with self._transaction():
            rows = [(name,) for name in names]
            self._base.executemany("INSERT OR IGNORE INTO studies (name) VALUES (?)", rows)

    def offer(self, names: Collection[str]) -> None:
        """Add studies, and restrict `take` to them: those that this process can read at present."""
        self.add(names)
        with self._transaction():
            self._base.execute("DELETE FROM here")
            self._base.executemany("INSERT OR IGNORE INTO here VALUES (?)", [(name,) for name in names])

    def take(self) -> Lease | None:
        """Take the first waiting study of the offered ones; return None if all of them are taken."""
        query = "SELECT name, attempts FROM studies JOIN here USING (name) WHERE status = ? ORDER BY name LIMIT 1"
        with self._transaction():
            self._return_lost()
            found = self._base.execute(query, (WAITING,)).fetchone()
            if found is None:
                return None
            lease = Lease(found["name"], found["attempts"] + 1)
            self._base.execute(
                "UPDATE studies SET status = ?, attempts = ?, worker = ?, since = ? WHERE name = ?",
                (RUNNING, lease.attempt, self.worker.token, time.time(), lease.study),
            )
        return lease

    def place(self, lease: Lease) -> Path:
        """Return a new empty folder for the outputs of a study, which `record` gives its final name."""
        folder = self.work / f"{lease.study}.{lease.attempt}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def record(self, lease: Lease, result: Result, seconds: float = 0.0) -> bool:
        """Record the outcome of a study, and move its outputs to their final folder if it is done.

        Return False, and drop the outputs, if this process has lost the study: another process has it now.
        """
        made = self.work / f"{lease.study}.{lease.attempt}"
        try:
            with self._transaction():
                if not self._holds(lease):
                    log.warning("predict: %s was taken over by another process after a pause", lease.study)
                    return False
                if result.status == "done":
                    self._publish(made, self.folder / lease.study)
                self._end(lease.study, result, seconds)
            return True
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def retry_failed(self) -> int:
        """Return all failed studies to the list; return their number."""
        with self._transaction():
            query = "UPDATE studies SET status = ?, attempts = 0, worker = NULL WHERE status = 'failed'"
            return self._base.execute(query, (WAITING,)).rowcount

    def is_free(self, name: str) -> bool:
        """Return whether a study is waiting, or not in the list yet."""
        with self._transaction():
            self._return_lost()
            found = self._base.execute("SELECT status FROM studies WHERE name = ?", (name,)).fetchone()
        return found is None or found["status"] == WAITING

    def wait(self, poll_s: float = 0.5) -> bool:
        """Wait for the studies of other processes; return whether studies are waiting again, because one has ended."""
        while True:
            with self._transaction():
                self._return_lost()
                counts = self._counts()
            if counts[WAITING] or not counts[RUNNING]:
                return bool(counts[WAITING])
            time.sleep(poll_s)

    def num_others(self) -> int:
        """Return the number of other processes that take part."""
        with self._guard, self._explained():
            rows = self._base.execute("SELECT * FROM workers").fetchall()
        return sum(not has_lost(row, self._lease_s) for row in rows if row["token"] != self.worker.token)

    def waiting(self) -> set[str]:
        """Return the waiting studies."""
        with self._guard, self._explained():
            rows = self._base.execute("SELECT name FROM studies WHERE status = ?", (WAITING,)).fetchall()
        return {row["name"] for row in rows}

    def give_up(self, names: Collection[str], result: Result) -> None:
        """Record a result for those of the given studies that wait."""
        with self._transaction():
            rows = self._base.execute("SELECT name FROM studies WHERE status = ?", (WAITING,)).fetchall()
            for row in rows:
                if row["name"] in names:
                    self._end(row["name"], result, 0.0)

    def num_ended(self) -> int:
        """Return the number of offered studies that have an outcome."""
        query = "SELECT count(*) FROM studies JOIN here USING (name) WHERE status NOT IN (?, ?)"
        with self._guard, self._explained():
            return int(self._base.execute(query, (WAITING, RUNNING)).fetchone()[0])

    def outcomes(self) -> BatchOutcomes:
        """Return the outcomes of all studies that have one, in the order of their names."""
        query = "SELECT * FROM studies WHERE status NOT IN (?, ?) ORDER BY name"
        with self._guard, self._explained():
            rows = self._base.execute(query, (WAITING, RUNNING)).fetchall()
        return BatchOutcomes(tuple(outcome_of(row) for row in rows))

    def close(self) -> None:
        """Close the database; the last process also removes the files that only shared use needs, and an empty list."""
        with self._guard:
            is_empty = False
            with suppress(sqlite3.Error, OutputError):  # such as another process that uses the database after all
                is_empty = not self.num_others() and not self._counts()
                if not self.num_others():
                    self._base.execute(f"PRAGMA busy_timeout={1000 * CLOSE_S:.0f}")
                    self._base.execute("PRAGMA journal_mode=DELETE")
            self._base.close()
            if is_empty:
                self._path.unlink(missing_ok=True)

    def wait_until_alone(self) -> None:
        """Wait until the other processes have closed the database, for at most `CLOSE_S`."""
        end = time.monotonic() + CLOSE_S
        while self.num_others() and time.monotonic() < end:
            time.sleep(CLOSE_S / 100)

    @property
    def work(self) -> Path:
        """Folder for unfinished files of this process, which exists while it takes studies."""
        return self.folder / WORK / self.worker.token

    def _counts(self) -> Counter[str]:
        return Counter(dict(self._base.execute("SELECT status, count(*) FROM studies GROUP BY status").fetchall()))

    def _write(self, statement: str, *values: Any) -> None:
        with self._transaction():
            self._base.execute(statement, values)

    def _holds(self, lease: Lease) -> bool:
        query = "SELECT 1 FROM studies WHERE name = ? AND status = ? AND worker = ? AND attempts = ?"
        values = (lease.study, RUNNING, self.worker.token, lease.attempt)
        return self._base.execute(query, values).fetchone() is not None

    def _publish(self, made: Path, final: Path) -> None:
        """Give the outputs of a study their final name; those of an attempt that was not recorded are removed."""
        if final.exists():
            final.replace(made.with_suffix(".before"))
        made.replace(final)
        shutil.rmtree(made.with_suffix(".before"), ignore_errors=True)

    def _end(self, name: str, result: Result, seconds: float) -> None:
        findings = json.dumps([plain(one) for one in result.findings])
        self._base.execute(
            "UPDATE studies SET status = ?, code = ?, reason = ?, seconds = ?, outputs = ?, findings = ?, "
            "worker = NULL WHERE name = ?",
            (result.status, result.code, result.reason, f"{seconds:.2f}", ";".join(result.outputs), findings, name),
        )

    def _return_lost(self) -> None:
        """Return the studies that workers have lost to the list; a study that ended `ATTEMPTS` workers fails."""
        tokens = {
            row["worker"] for row in self._base.execute("SELECT worker FROM studies WHERE status = ?", (RUNNING,))
        }
        tokens.discard(self.worker.token)
        if not tokens:
            return
        known = {row["token"]: row for row in self._base.execute("SELECT * FROM workers")}
        for token in sorted(tokens):
            if token not in known:
                self._return_studies(token, "a process that ended")
            elif has_lost(known[token], self._lease_s):
                self._return_studies(token, known[token]["name"])

    def _return_studies(self, token: str, name: str) -> None:
        query = "SELECT name, attempts FROM studies WHERE status = ? AND worker = ?"
        for row in self._base.execute(query, (RUNNING, token)).fetchall():
            log.warning(
                "predict: %s gives no sign of life; it began attempt %d of %s", name, row["attempts"], row["name"]
            )
            if row["attempts"] >= ATTEMPTS:
                reason = f"{ATTEMPTS} processes ended on it, as for lack of memory or in a decoder"
                self._end(row["name"], Result("failed", CrashError.code, reason), 0.0)
            else:
                values = (WAITING, row["name"])
                self._base.execute("UPDATE studies SET status = ?, worker = NULL WHERE name = ?", values)

    def _leave(self) -> None:
        """Return the studies of this process to the list; an attempt that it ended in an orderly way does not count."""
        with self._transaction():
            self._base.execute(
                "UPDATE studies SET status = ?, worker = NULL, attempts = attempts - 1 WHERE status = ? AND worker = ?",
                (WAITING, RUNNING, self.worker.token),
            )
            self._base.execute("DELETE FROM workers WHERE token = ?", (self.worker.token,))
        shutil.rmtree(self.work, ignore_errors=True)
        with suppress(OSError):
            (self.folder / WORK).rmdir()  # unless another process is at work

    def _remove_leftovers(self) -> None:
        """Remove unfinished outputs of processes that have ended."""
        with self._transaction():
            self._return_lost()
            rows = self._base.execute("SELECT * FROM workers").fetchall()
            alive = {row["token"] for row in rows if not _worker(row).has_ended()}  # a paused one may continue
            ended = [(row["token"],) for row in rows if row["token"] not in alive]
            self._base.executemany("DELETE FROM workers WHERE token = ?", ended)
        for left in (self.folder / WORK).glob("*"):
            if left.name not in alive:
                shutil.rmtree(left, ignore_errors=True)

    def _beat(self, is_over: threading.Event) -> None:
        while not is_over.wait(self._beat_s):
            with suppress(OutputError):  # the main thread reports the same error at its next outcome
                self._write("UPDATE workers SET beat = ? WHERE token = ?", time.monotonic(), self.worker.token)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Return a context in which no other process writes; an error undoes all changes of the database in it."""
        with self._guard, self._explained():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    def _explained(self) -> AbstractContextManager[None]:
        return explained(f"the list of studies {self._path}", "; if it is damaged, predict into another folder")


def require_local(folder: Path) -> None:
    """Check that a folder is on a local disk, so that processes can share a list of studies in it.

    Raises:
        ConfigError: If it is on a network file system.
    """
    mount = mount_of(folder)
    if mount is not None and mount.is_network:
        raise ConfigError(
            f"{folder} is on a network file system ({mount.kind}, mounted on {mount.folder}), on which the locks of "
            "the list of studies are not reliable; give output=... on a local disk and copy the results, or "
            "engine.name=ray, with which one process alone uses the list"
        )


def has_lost(row: sqlite3.Row, lease_s: float) -> bool:
    """Return whether a worker, given as a row of the database, has lost its studies."""
    return _worker(row).has_lost(row["beat"], lease_s)


def _worker(row: sqlite3.Row) -> Worker:
    return Worker(*(row[key] for key in ("token", "name", "boot", "namespace", "pid", "started")))
