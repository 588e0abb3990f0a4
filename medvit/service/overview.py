"""What the service shows of itself: counts, ages, studies and reasons, with pseudonyms only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvit.service.database import Database

OPEN = "status IN ('waiting', 'running') AND superseded = 0"
STUDY_COLUMNS = "name AS study, state, code, reason, began, changed"
JOB_COLUMNS = (
    "id, study, model, sha256 AS model_sha256, status, code, reason, attempts, superseded, made, ended, seconds, "
    "outputs, delivery, delivery_code, delivery_reason, delivered"
)


@dataclass(frozen=True)
class Overview:
    """State of the queue, read from the database."""

    database: Database

    def counts(self, table: str, column: str) -> dict[str, int]:
        """Return the number of studies or of predictions that are not superseded, by a column, without empty values."""
        where = "WHERE superseded = 0" if table == "jobs" else ""
        rows = self.database.rows(
            f"SELECT {column} AS value, count(*) AS number FROM {table} {where} GROUP BY {column}"
        )
        return {row["value"]: row["number"] for row in rows if row["value"]}

    @property
    def queue_length(self) -> int:
        """Return the number of predictions that wait or run."""
        return int(self.database.number(f"SELECT count(*) FROM jobs WHERE {OPEN}"))

    @property
    def oldest_s(self) -> float:
        """Return the age of the oldest study that waits for its prediction, delivery or completeness, in seconds."""
        oldest = self.database.number(
            "SELECT min(at) FROM (SELECT min(began) AS at FROM studies WHERE state = 'receiving' "
            f"UNION ALL SELECT min(made) FROM jobs WHERE {OPEN} "
            "UNION ALL SELECT min(ended) FROM jobs WHERE delivery = 'waiting' AND superseded = 0)"
        )
        return max(0.0, time.time() - oldest) if oldest else 0.0

    def dead_letters(self) -> list[dict[str, Any]]:
        """Return what waits for a person: held studies, failed predictions and deliveries, each with its reason."""
        rows = self.database.rows(
            "SELECT name AS study, '' AS model, 'held' AS what, code, reason, changed AS since FROM studies "
            "WHERE state = 'held' UNION ALL "
            "SELECT study, model, 'not predicted', code, reason, ended FROM jobs "
            "WHERE status = 'failed' AND superseded = 0 UNION ALL "
            "SELECT study, model, 'not delivered', delivery_code, delivery_reason, ended FROM jobs "
            "WHERE delivery IN ('held', 'failed') AND superseded = 0 ORDER BY since"
        )
        return [dict(row) for row in rows]

    def studies(self, number: int) -> list[dict[str, Any]]:
        """Return the studies that changed last."""
        rows = self.database.rows(f"SELECT {STUDY_COLUMNS} FROM studies ORDER BY changed DESC LIMIT ?", number)
        return [self._with_size(row) for row in rows]

    def study(self, name: str) -> dict[str, Any] | None:
        """Return a study with its predictions, the latest first; None if it is unknown."""
        row = self.database.row(f"SELECT {STUDY_COLUMNS} FROM studies WHERE name = ?", name)
        return None if row is None else {**self._with_size(row), "predictions": self.jobs(name)}

    def jobs(self, study: str) -> Sequence[Mapping[str, Any]]:
        """Return the predictions of a study, the latest first."""
        rows = self.database.rows(f"SELECT {JOB_COLUMNS} FROM jobs WHERE study = ? ORDER BY id DESC", study)
        return [dict(row) for row in rows]

    def _with_size(self, row: Any) -> dict[str, Any]:
        number = self.database.number("SELECT count(*) FROM instances WHERE study = ?", row["study"])
        return {**dict(row), "instances": int(number)}
