"""Loop that sends results to the archive, after its check of the patient; without an archive, nothing is sent."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from medvit.delivery import ArchiveConfig, ResultArchive
from medvit.delivery.dicomweb import connect as connect_web
from medvit.delivery.dimse import connect as connect_dimse
from medvit.delivery.journal import DELIVERED, DeliveryJournal
from medvit.delivery.objects import dicom_files, read_object
from medvit.delivery.send import Delivery
from medvit.errors import MedvitError, SourceError, unexpected
from medvit.files.private import OWNER_FILE
from medvit.service.audit_trail import AuditTrail
from medvit.service.database import Database
from medvit.service.queue import PredictionJob
from medvit.sources.pacs import SOURCE as PACS
from medvit.sources.transfer import MAX_PAUSE_S, quiet

log = logging.getLogger("medvit")

POLL_S = 0.5
"""Seconds between two looks for results to send."""
WAITING = (
    "SELECT jobs.* FROM jobs JOIN studies ON studies.name = jobs.study WHERE delivery = 'waiting' AND superseded = 0 "
    "AND studies.state = 'complete' ORDER BY jobs.id"
)


@dataclass
class DeliveryLoop:
    """Thread that sends finished results. An archive that cannot be reached is asked again after growing pauses."""

    results: Path
    database: Database
    audit: AuditTrail
    location: str
    options: ArchiveConfig
    stop: threading.Event
    fault: str = ""
    """Reason why nothing can be sent at present; empty if the archive answers."""

    def run(self) -> None:
        """Send until the service stops."""
        pause_s = POLL_S
        while not self.stop.wait(pause_s):
            try:
                self._send_all()
                self.fault, pause_s = "", POLL_S
            except Exception as error:  # the archive may be away for a night; results remain in the queue
                self.fault = _reason(error)
                log.warning("serve: results could not be sent, and will be sent later: %s", self.fault)
                pause_s = min(MAX_PAUSE_S, max(1.0, 2 * pause_s))

    def _send_all(self) -> None:
        rows = self.database.rows(WAITING)
        if not rows:
            return
        with quiet(), self._connected() as archive:
            for row in rows:
                if self.stop.is_set():
                    return
                self._send(PredictionJob(row["id"], row["study"], row["model"], row["attempts"]), archive)

    def _connected(self) -> AbstractContextManager[ResultArchive]:
        connect: Callable[..., AbstractContextManager[ResultArchive]] = (
            connect_dimse if PACS.knows(self.location) else connect_web
        )
        return connect(self.location, self.options)

    def _send(self, job: PredictionJob, archive: ResultArchive) -> None:
        """Send the objects of one prediction, and record how that ended.

        Raises:
            SourceError: If the archive cannot be reached, or refuses access; the delivery continues later.
        """
        folder = self.results / job.folder
        try:
            files = dicom_files(folder)[job.study]
            objects = [read_object(path, path.relative_to(folder).as_posix()) for path in files]
        except (MedvitError, KeyError, OSError) as error:
            self._note(job, "failed", "unreadable", _reason(error))
            return
        journal = DeliveryJournal(folder)
        Delivery(archive, self.options, journal, _stop=self.stop).deliver(objects)
        for path in folder.glob("journal.jsonl"):
            path.chmod(OWNER_FILE)
        bad = [step for step in journal.steps if step.state not in DELIVERED]
        if not bad:
            self.audit.add("sent", job.study, model=job.model, objects=len(objects))
            self._note(job, "sent", "", "")
        else:
            state = "held" if any(step.state == "held" for step in bad) else "failed"
            self._note(job, state, bad[0].code, bad[0].reason)
            log.warning("serve: %s is not delivered (%s): %s", job.study, state, bad[0].reason)

    def _note(self, job: PredictionJob, state: str, code: str, reason: str) -> None:
        self.database.write(
            "UPDATE jobs SET delivery = ?, delivery_code = ?, delivery_reason = ?, delivered = ? WHERE id = ?",
            state,
            code,
            reason,
            time.time() if state == "sent" else None,
            job.id,
        )


def _reason(error: Exception) -> str:
    """Return the reason of a failure without the address of the archive, which messages of sources contain."""
    if isinstance(error, SourceError):
        return "the archive cannot be reached or refuses access; see medvit doctor archive=..."
    return str(error) if isinstance(error, MedvitError) else unexpected(error)
