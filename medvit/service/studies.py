"""Life of a study in the service: receiving, complete, held for a person, deleted.

The quiet time is measured by the monotonic clock, which does not jump. It starts again when the service starts.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from medvit.errors import ConfigError
from medvit.service.audit_trail import AuditTrail
from medvit.service.database import Database
from medvit.service.options import CompleteConfig
from medvit.service.store import DELETED, INCOMPLETE, InstanceStore


@dataclass
class Studies:
    """Studies that the service has received."""

    store: InstanceStore
    database: Database
    audit: AuditTrail
    options: CompleteConfig
    _last: dict[str, float] = field(default_factory=dict, repr=False)
    """Study -> time of its last instance, on the monotonic clock."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def arrived(self, study: str) -> None:
        """Note the arrival of an instance."""
        with self._lock:
            self._last[study] = time.monotonic()

    def completed(self) -> list[str]:
        """Return the studies that have just become complete; studies that lack instances for too long are held."""
        done = []
        for row in self.database.rows("SELECT name, uid FROM studies WHERE state = 'receiving' ORDER BY began"):
            with self._lock:
                quiet_s = time.monotonic() - self._last.setdefault(row["name"], time.monotonic())
            number = self.num_instances(row["name"])
            wanted = self.database.row("SELECT instances FROM expected WHERE uid = ?", row["uid"])
            is_quiet = quiet_s >= self.options.quiet_s
            if is_quiet if wanted is None or number > wanted["instances"] else number == wanted["instances"]:
                done.append(row["name"])
            elif wanted is not None and quiet_s >= self.options.give_up_s:
                reason = f"{number} of {wanted['instances']} expected instances came"
                self.store.hold(row["name"], INCOMPLETE, reason)
        return done

    def complete(self, study: str) -> str | None:
        """Mark a study as complete; return the digest of its images, or None if it is no longer receiving."""
        with self.database.transaction():
            images = self.store.digest(study)
            changed = self.database.write(
                "UPDATE studies SET state = 'complete', images = ?, code = '', reason = '' "
                "WHERE name = ? AND state = 'receiving'",
                images,
                study,
            )
        with self._lock:
            self._last.pop(study, None)
        if not changed:
            return None
        self.audit.add("received", study, instances=self.num_instances(study))
        return images

    def expect(self, uid: str, instances: int) -> None:
        """Set the number of instances with which a study, given by its StudyInstanceUID, is complete."""
        self.database.write("INSERT OR REPLACE INTO expected VALUES (?, ?)", uid, instances)

    def num_instances(self, study: str) -> int:
        """Return the number of instances of a study."""
        return int(self.database.number("SELECT count(*) FROM instances WHERE study = ?", study))

    def release(self, study: str) -> None:
        """Predict a held study after all, with the instances that were received first.

        Raises:
            ConfigError: If the study is not held, or its images were deleted.
        """
        with self.database.transaction():
            row = self.database.row("SELECT * FROM studies WHERE name = ? AND state = 'held'", study)
            if row is None:
                raise ConfigError("the study does not wait for a person")
            codes = row["code"].split()
            if DELETED in codes:
                raise ConfigError("the images of the study were deleted; discard it, then send the whole study again")
            if INCOMPLETE in codes:
                self.database.write("DELETE FROM expected WHERE uid = ?", row["uid"])
            released = " ".join(sorted({*row["released"].split(), *codes}))
            self.database.write(
                "UPDATE studies SET state = 'receiving', code = '', reason = '', released = ? WHERE name = ?",
                released,
                study,
            )
        self.arrived(study)
        self.audit.add("released", study, code=row["code"])

    def discard(self, study: str) -> None:
        """Forget a held study: its files and rows are deleted, and it is received like a new one if it is sent again.

        Raises:
            ConfigError: If the study is not held.
        """
        with self.database.transaction():
            row = self.database.row("SELECT uid FROM studies WHERE name = ? AND state = 'held'", study)
            if row is None:
                raise ConfigError("the study does not wait for a person")
            for table in ("instances", "aside"):
                self.database.write(f"DELETE FROM {table} WHERE study = ?", study)
            self.database.write("DELETE FROM jobs WHERE study = ? AND status = 'waiting'", study)
            self.database.write("UPDATE jobs SET superseded = 1 WHERE study = ?", study)
            self.database.write("DELETE FROM expected WHERE uid = ?", row["uid"])
            self.database.write("DELETE FROM studies WHERE name = ?", study)
        files = self.store.remove_files(study)
        self.audit.add("deleted", study, files=files, by="person")
