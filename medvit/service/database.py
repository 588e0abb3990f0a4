"""Database of the service: SQLite in WAL mode, on disk before a call returns."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from medvit.files.databases import explained
from medvit.files.private import OWNER_FILE

DATABASE = "service.sqlite"
BUSY_S = 60.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS studies (
    name TEXT PRIMARY KEY, uid TEXT NOT NULL, owner TEXT NOT NULL, identity TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'receiving', code TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',
    released TEXT NOT NULL DEFAULT '', images TEXT NOT NULL DEFAULT '', began REAL NOT NULL, changed REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS studies_by_uid ON studies (uid);
CREATE INDEX IF NOT EXISTS studies_by_state ON studies (state);
CREATE TABLE IF NOT EXISTS instances (
    uid TEXT PRIMARY KEY, study TEXT NOT NULL, file TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS instances_by_study ON instances (study);
CREATE TABLE IF NOT EXISTS aside (
    uid TEXT NOT NULL, sha256 TEXT NOT NULL, study TEXT NOT NULL, file TEXT NOT NULL, PRIMARY KEY (uid, sha256)
);
CREATE TABLE IF NOT EXISTS expected (uid TEXT PRIMARY KEY, instances INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT NOT NULL, images TEXT NOT NULL, model TEXT NOT NULL,
    sha256 TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'waiting', code TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0, outputs TEXT NOT NULL DEFAULT '',
    superseded INTEGER NOT NULL DEFAULT 0, made REAL NOT NULL, ended REAL, seconds REAL,
    delivery TEXT NOT NULL DEFAULT '', delivery_code TEXT NOT NULL DEFAULT '',
    delivery_reason TEXT NOT NULL DEFAULT '', delivered REAL, UNIQUE (study, images, model, sha256)
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status);
CREATE INDEX IF NOT EXISTS jobs_by_delivery ON jobs (delivery);
CREATE TABLE IF NOT EXISTS pins (id INTEGER PRIMARY KEY AUTOINCREMENT, models TEXT NOT NULL, at REAL NOT NULL);
"""


class Database:
    """Database in the folder of the service, used by all of its threads.

    Raises:
        OutputError: In all methods, if the database cannot be used, for example on a full disk.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / DATABASE
        self._guard = threading.RLock()
        with self._explained():
            self._path.touch(OWNER_FILE)
            self._base = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._base.row_factory = sqlite3.Row
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.executescript(SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """Return a context whose changes are made together, and are on disk at its end; an error undoes them."""
        with self._guard, self._explained():
            if self._base.in_transaction:  # within another one, which ends it
                yield self
                return
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self
                self._base.execute("COMMIT")
            finally:  # after an error
                self._undo()

    def write(self, statement: str, *values: Any) -> int:
        """Execute a statement; return the number of changed rows."""
        with self.transaction(), self._explained():
            return self._base.execute(statement, values).rowcount

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Return the rows that a query finds."""
        with self._guard, self._explained():
            return self._base.execute(query, values).fetchall()

    def row(self, query: str, *values: Any) -> sqlite3.Row | None:
        """Return the first row that a query finds; None without any."""
        return next(iter(self.rows(query, *values)), None)

    def number(self, query: str, *values: Any) -> float:
        """Return the one number that a query gives; 0 instead of NULL."""
        return self.rows(query, *values)[0][0] or 0

    def close(self) -> None:
        """Close the database."""
        with self._guard:
            self._base.close()

    def _undo(self) -> None:
        if self._base.in_transaction:
            self._base.execute("ROLLBACK")

    def _explained(self) -> AbstractContextManager[None]:
        return explained(f"the database {self._path}")
