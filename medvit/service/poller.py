"""Loop that asks a DICOMweb archive for new studies and instances, and receives them as if they were sent."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from medvit.config import Count, Positive
from medvit.errors import NotAnImageError, SourceError, UnreadableError, unexpected
from medvit.service.instance import ReceivedInstance, require_image
from medvit.service.store import WORK, InstanceStore
from medvit.service.studies import Studies
from medvit.sources import Location, SourceRequest
from medvit.sources.dicomweb import DicomWeb, connect
from medvit.sources.intake import RemoteSeries
from medvit.sources.options import ConnectionConfig, Query, RetrieveConfig
from medvit.sources.transfer import Transfer, quiet

log = logging.getLogger("medvit")


class PollConfig(ConnectionConfig):
    """Archive with DICOMweb that is asked for new studies."""

    GROUP: ClassVar[str] = "poll"

    query: Query = Field(default_factory=Query)
    concurrency: Count = 4
    """Number of series fetched in parallel."""

    source: Location | None = Field(default=None, json_schema_extra={"private": True})
    """Archive to ask: https://HOST/ROOT. Unset: studies come only by C-STORE."""
    every_s: Positive = 60.0
    """Seconds between two questions."""
    days: Count | None = 2
    """Age in days of the oldest study to ask for, by study date. Unset: as `query.since`."""

    @model_validator(mode="after")
    def _is_dicomweb(self) -> PollConfig:
        if self.source is not None and not self.source.lower().startswith(("http", "dicomweb+http")):
            raise ValueError("source is not a DICOMweb archive; expected https://HOST/ROOT")
        if self.pacs.model_fields_set:
            raise ValueError("the archive is asked by DICOMweb, which has no application entities; leave pacs unset")
        if self.source is not None and self.days is not None and self.query.since is not None:
            raise ValueError("query.since and days both set the oldest study; give days=null with query.since")
        return self

    def retrieving(self) -> RetrieveConfig:
        """Return the options for a transfer in which an incomplete series does not stop the others."""
        shared = ConnectionConfig.model_fields.keys() - {"pacs"} | {"query", "concurrency"}
        return RetrieveConfig(**{key: getattr(self, key) for key in shared}, incomplete="quarantine")


@dataclass
class PollLoop:
    """Thread that asks the archive."""

    folder: Path
    store: InstanceStore
    studies: Studies
    options: PollConfig
    stop: threading.Event
    fault: str = ""
    """Reason why the last question failed; empty if it did not."""
    _unwanted: set[str] = field(default_factory=set, repr=False)
    """Instances of the archive from which no prediction is made, such as those that medvit has made."""

    def run(self) -> None:
        """Ask until the service stops."""
        while not self.stop.is_set():
            try:
                self.ask()
                self.fault = ""
            except Exception as error:  # the archive may be away for a night
                is_away = isinstance(error, SourceError)
                self.fault = "the archive cannot be reached or refuses access" if is_away else unexpected(error)
                log.warning("serve: the archive was not asked for new studies: %s", self.fault)
            self.stop.wait(self.options.every_s)

    def ask(self) -> None:
        """Receive the instances of the archive that match the query and were not received before.

        Raises:
            MedvitError: If the archive cannot be reached or refuses, or the disk is full.
        """
        assert self.options.source is not None
        query = self.options.query
        if self.options.days is not None:
            query = query.model_copy(update={"since": date.today() - timedelta(days=self.options.days)})
        with quiet(), connect(self.options.source, self.options.retrieving()) as server:
            modalities = query.modality or ("",)
            patients = query.patient_ids()
            found = [server.studies(patient, one, query) for patient in patients for one in modalities]
            for study in {one.uid: one for group in found for one in group}.values():
                series = [one for one in server.series(study, query) if _has_images(one)]
                missing = [one for one in series if self._lacks(one)]
                if missing and not self.stop.is_set():
                    self.studies.expect(study.uid, self._num_wanted(series))
                    self._fetch(server, missing)
                    self.studies.expect(study.uid, self._num_wanted(series))

    def _lacks(self, series: RemoteSeries) -> bool:
        return not all(uid in self._unwanted or self.store.has(uid) for uid in series.instances)

    def _num_wanted(self, series: list[RemoteSeries]) -> int:
        return len({uid for one in series for uid in one.instances} - self._unwanted)

    def _fetch(self, server: DicomWeb, series: list[RemoteSeries]) -> None:
        assert self.options.source is not None
        options = self.options.retrieving()
        spool = SourceRequest(self.options.source, options, self.folder / WORK).spool(series[0].study)
        with spool.closed_on_failure():
            local = Transfer(server, options, spool, self.stop).run(series)
        try:
            for path in local.files:
                try:
                    self.store.admit(ReceivedInstance.of(path.read_bytes()))
                except (NotAnImageError, UnreadableError):
                    self._unwanted.add(path.stem)
        finally:
            local.discard()


def _has_images(series: RemoteSeries) -> bool:
    """Return whether a series may have images from which a prediction is made."""
    for sop_class in series.classes:
        with suppress(NotAnImageError):
            require_image(sop_class)
            return bool(series.instances)
    return bool(series.instances) and not series.classes
