"""Queue of predictions on disk: one for each complete study and model in force, never twice for the same images.

An attempt is recorded before it starts. A study on which the worker ended three times is set aside.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from medvit.errors import ConfigError, CrashError
from medvit.service.audit_trail import AuditTrail
from medvit.service.database import Database
from medvit.writers import Result

ATTEMPTS = 3
"""Number of attempts for a study on which workers end."""
CRASHED = f"{ATTEMPTS} worker processes ended on it, as for lack of memory or in a decoder"


@dataclass(frozen=True)
class PredictionJob:
    """Prediction of a study with a model."""

    id: int
    study: str
    model: str
    attempt: int

    @property
    def folder(self) -> str:
        """Name of the folder of the results, below that of all results."""
        return f"{self.study}/{self.model}-{self.id}"


@dataclass
class JobQueue:
    """Predictions that wait, run or have ended."""

    database: Database
    audit: AuditTrail
    is_sending: bool

    def offer(self, study: str, images: str, models: Mapping[str, str]) -> None:
        """Add the predictions of a complete study, for models given by name and hash.

        Nothing is added for images that the same model has predicted before. Results of earlier images are superseded,
        as are predictions that wait for a model that is no longer in force.
        """
        with self.database.transaction():
            self.database.write(
                "UPDATE jobs SET superseded = 1 WHERE study = ? AND (images != ? OR status = 'waiting')", study, images
            )
            for model, sha256 in models.items():
                self.database.write(
                    "INSERT OR IGNORE INTO jobs (study, images, model, sha256, made) VALUES (?, ?, ?, ?, ?)",
                    study,
                    images,
                    model,
                    sha256,
                    time.time(),
                )
                self.database.write(
                    "UPDATE jobs SET superseded = 0 WHERE study = ? AND images = ? AND model = ? AND sha256 = ?",
                    study,
                    images,
                    model,
                    sha256,
                )

    def offer_left(self, models: Mapping[str, str]) -> None:
        """Add the predictions of complete studies that have none, or that wait for a model that is not in force.

        The first happens if the service was killed just before a study was queued, the second after a reload.
        """
        rows = self.database.rows(
            "SELECT studies.name, studies.images, jobs.model, jobs.sha256 FROM studies LEFT JOIN jobs "
            "ON jobs.study = studies.name AND jobs.images = studies.images WHERE studies.state = 'complete' "
            "AND (jobs.id IS NULL OR (jobs.status = 'waiting' AND jobs.superseded = 0))"
        )
        for row in rows:
            if row["model"] is None or models.get(row["model"]) != row["sha256"]:
                self.offer(row["name"], row["images"], models)

    def take(self, models: Mapping[str, str]) -> PredictionJob | None:
        """Take the oldest waiting prediction with a model in force; None without any."""
        with self.database.transaction():
            for row in self.database.rows(
                "SELECT jobs.* FROM jobs JOIN studies ON studies.name = jobs.study WHERE status = 'waiting' "
                "AND superseded = 0 AND studies.state = 'complete' ORDER BY jobs.id"
            ):
                if models.get(row["model"]) == row["sha256"]:
                    self.database.write(
                        "UPDATE jobs SET status = 'running', attempts = attempts + 1 WHERE id = ?", row["id"]
                    )
                    return PredictionJob(row["id"], row["study"], row["model"], row["attempts"] + 1)
        return None

    def record(self, job: PredictionJob, result: Result, seconds: float, *, has_objects: bool) -> None:
        """Record the outcome of a prediction; `has_objects` is whether it made DICOM objects that can be sent."""
        row = self.database.rows("SELECT sha256 FROM jobs WHERE id = ?", job.id)[0]
        self.audit.add(
            "predicted", job.study, model=job.model, model_sha256=row["sha256"], status=result.status, code=result.code
        )
        delivery = "waiting" if self.is_sending and has_objects else ""
        self.database.write(
            "UPDATE jobs SET status = ?, code = ?, reason = ?, outputs = ?, ended = ?, seconds = ?, delivery = ? "
            "WHERE id = ?",
            result.status,
            result.code,
            result.reason,
            ";".join(result.outputs),
            time.time(),
            seconds,
            delivery,
            job.id,
        )

    def give_back(self, job: PredictionJob, *, is_counted: bool) -> None:
        """Return a prediction to the queue; an attempt that does not count is not the fault of the study."""
        self.database.write(
            "UPDATE jobs SET status = 'waiting', attempts = attempts - ? WHERE id = ? AND status = 'running'",
            0 if is_counted else 1,
            job.id,
        )

    def recover(self) -> int:
        """Return the predictions that ran when the service was killed to the queue; return their number."""
        rows = self.database.rows("SELECT * FROM jobs WHERE status = 'running'")
        for row in rows:
            self.crashed(PredictionJob(row["id"], row["study"], row["model"], row["attempts"]))
        return len(rows)

    def crashed(self, job: PredictionJob) -> None:
        """Return a prediction on which the worker ended to the queue, or set it aside after several attempts."""
        if job.attempt < ATTEMPTS:
            self.give_back(job, is_counted=True)
        else:
            self.record(job, Result("failed", CrashError.code, CRASHED), 0.0, has_objects=False)

    def retry(self, study: str) -> int:
        """Predict or send again what failed for a study; return the number of predictions.

        Raises:
            ConfigError: If nothing failed.
        """
        with self.database.transaction():
            number = self.database.write(
                "UPDATE jobs SET status = 'waiting', attempts = 0, code = '', reason = '' "
                "WHERE study = ? AND status = 'failed' AND superseded = 0",
                study,
            )
            number += self.database.write(
                "UPDATE jobs SET delivery = 'waiting', delivery_code = '', delivery_reason = '' "
                "WHERE study = ? AND delivery IN ('held', 'failed') AND superseded = 0",
                study,
            )
        if not number:
            raise ConfigError("nothing failed for this study")
        self.audit.add("retried", study)
        return number
