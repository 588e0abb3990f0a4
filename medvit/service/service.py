"""Service: its options, and its receiver, store, queue, worker and sender together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from medvit import __version__
from medvit.config import Amount, Positive
from medvit.delivery import ArchiveConfig
from medvit.errors import MedvitError, unexpected
from medvit.service.audit_trail import AuditTrail
from medvit.service.models import ModelsInForce, Pins
from medvit.service.options import CompleteConfig, PredictingConfig, ReceiveConfig, WebConfig
from medvit.service.overview import Overview
from medvit.service.poller import PollConfig, PollLoop
from medvit.service.predicting import PredictionLoop
from medvit.service.queue import JobQueue
from medvit.service.receiver import StudyReceiver
from medvit.service.retention import Retention
from medvit.service.sender import DeliveryLoop
from medvit.service.store import InstanceStore
from medvit.service.studies import Studies
from medvit.sources import Location
from medvit.sources.options import is_url

log = logging.getLogger("medvit")

TICK_S, RETENTION_S = 0.2, 600.0
"""Seconds between two looks for complete studies, and for images to delete."""


class ServeConfig(PredictingConfig):
    """Options of `medvit serve`."""

    folder: Path
    """Folder of the service: received images, queue, results and audit trail. It continues where it was stopped."""
    receive: ReceiveConfig = Field(default_factory=ReceiveConfig)
    poll: PollConfig = Field(default_factory=PollConfig)
    complete: CompleteConfig = Field(default_factory=CompleteConfig)
    web: WebConfig = Field(default_factory=WebConfig)
    send: Location | None = Field(default=None, json_schema_extra={"private": True})
    """Archive to send results to: https://HOST/ROOT for DICOMweb, or pacs://AET@HOST:PORT for DICOM. Unset: nothing is
    sent (shadow mode).
    """
    archive: ArchiveConfig = Field(default_factory=ArchiveConfig)
    delete_after_days: Positive | None = None
    """Days after which the received images of a study are deleted, counted from the confirmation of all its results by
    the archive. Unset: images are never deleted.
    """
    min_free_gib: Amount = 10.0
    """Free space in GiB below which instances are refused (status A700) and nothing is predicted."""
    registry: str = "sqlite:///mlflow.db"
    """MLflow store in which models:/NAME is looked up: an SQLite file, a folder or a server."""

    @model_validator(mode="after")
    def _is_useful(self) -> ServeConfig:
        if self.send is not None and not is_url(self.send):
            raise ValueError("send is not a server; expected https://HOST/ROOT or pacs://AET@HOST:PORT")
        if self.delete_after_days is not None and self.send is None:
            raise ValueError("delete_after_days counts from the confirmation of the archive; give send as well")
        if not self.receive.enabled and self.poll.source is None:
            raise ValueError("no studies would come; give poll.source, or leave receive.enabled at true")
        return self


@dataclass
class Service:
    """Service at work, made by `running`."""

    options: ServeConfig
    store: InstanceStore
    studies: Studies
    queue: JobQueue
    pins: Pins
    loop: PredictionLoop
    receiver: StudyReceiver
    overview: Overview
    audit: AuditTrail
    stop: threading.Event
    sender: DeliveryLoop | None = None
    poller: PollLoop | None = None
    web_port: int = 0
    fault: str = ""
    """Reason why complete studies cannot be queued at present; empty if they can."""
    _retained: float = field(default=0.0, repr=False)

    @property
    def sends(self) -> bool:
        """Whether results are sent."""
        return self.sender is not None

    def faults(self) -> list[str]:
        """Return the reasons why the service does not fully work at present."""
        parts = {"predict": self.loop.fault, "queue": self.fault}
        parts |= {"send": self.sender.fault} if self.sender is not None else {}
        parts |= {"poll": self.poller.fault} if self.poller is not None else {}
        parts["disk"] = "" if self.store.has_space() else self.store.lack_of_space
        return [f"{name}: {fault}" for name, fault in parts.items() if fault]

    def state(self) -> dict[str, Any]:
        """Return counts, faults and models in force."""
        return {
            "version": __version__,
            "faults": self.faults(),
            "queue": self.overview.queue_length,
            "oldest_seconds": self.overview.oldest_s,
            "studies": self.overview.counts("studies", "state"),
            "predictions": self.overview.counts("jobs", "status"),
            "deliveries": self.overview.counts("jobs", "delivery"),
            "sends": self.sends,
            "models": self.models(),
        }

    def use_models(self, change: Callable[[], ModelsInForce]) -> list[dict[str, str]]:
        """Change the models in force; return them. Studies that were predicted before are not predicted again."""
        change()
        self.record_models("reloaded")
        return self.models()

    def models(self) -> list[dict[str, str]]:
        """Return name, hash and registered version of the models in force."""
        return [{"name": one.name, "sha256": one.sha256, "version": one.version} for one in self.pins.now.pinned]

    def tick(self) -> None:
        """Queue the studies that have become complete, and delete images that are due."""
        for study in self.studies.completed():
            images = self.studies.complete(study)
            if images is not None:
                self.queue.offer(study, images, self.pins.now.hashes)
                log.info("serve: %s is complete with %d instances", study, self.studies.num_instances(study))
        self.queue.offer_left(self.pins.now.hashes)
        if self.options.delete_after_days is not None and time.monotonic() - self._retained > RETENTION_S:
            self._retained = time.monotonic()
            Retention(self.store, self.store.database, self.audit, self.options.delete_after_days).apply()

    def work(self) -> None:
        """Do what the service does until it is stopped."""
        while not self.stop.wait(TICK_S):
            try:
                self.tick()
                self.fault = ""
            except Exception as error:  # such as a full disk, on which the next look is tried again
                if not self.fault:
                    log.warning("serve: complete studies cannot be queued (%s)", type(error).__name__)
                self.fault = str(error) if isinstance(error, MedvitError) else unexpected(error)

    def record_models(self, event: Literal["started", "reloaded"]) -> None:
        """Add the models in force to the audit trail."""
        self.audit.add(event, models=", ".join(f"{one.name} {one.sha256}" for one in self.pins.now.pinned))
