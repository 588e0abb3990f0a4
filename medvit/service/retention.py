"""Deletion of received images after the archive has confirmed the results."""

from __future__ import annotations

import time
from dataclasses import dataclass

from medvit.service.audit_trail import AuditTrail
from medvit.service.database import Database
from medvit.service.store import InstanceStore

DAY_S = 86_400.0
DELIVERED = (
    "SELECT name FROM studies WHERE state = 'complete' AND EXISTS "
    "(SELECT 1 FROM jobs WHERE study = name AND superseded = 0 AND delivery = 'sent') AND NOT EXISTS "
    "(SELECT 1 FROM jobs WHERE study = name AND superseded = 0 AND (status IN ('waiting', 'running', 'failed') "
    "OR (delivery != '' AND (delivery != 'sent' OR delivered > ?))))"
)
"""Studies all of whose results the archive had confirmed at some time."""


@dataclass(frozen=True)
class Retention:
    """Deletion of the received images of a study, a number of days after the archive confirmed its results."""

    store: InstanceStore
    database: Database
    audit: AuditTrail
    days: float

    def apply(self) -> list[str]:
        """Delete what is due; return the studies."""
        due = [row["name"] for row in self.database.rows(DELIVERED, time.time() - self.days * DAY_S)]
        return [study for study in due if self._delete(study)]

    def _delete(self, study: str) -> bool:
        changed = self.database.write(
            "UPDATE studies SET state = 'deleted', changed = ? WHERE name = ? AND state = 'complete'",
            time.time(),
            study,
        )
        if changed:
            self.audit.add("deleted", study, files=self.store.remove_files(study), by="retention")
        return bool(changed)
