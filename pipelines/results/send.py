"""Delivery of results to the archive in which doctors look."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from medvit.delivery import ArchiveConfig, ResultArchive
from medvit.delivery.dicomweb import connect as connect_web
from medvit.delivery.dimse import connect as connect_dimse
from medvit.delivery.journal import DELIVERED, DeliveryJournal, DeliveryStep
from medvit.delivery.objects import dicom_files, read_object
from medvit.delivery.send import Delivery
from medvit.errors import ConfigError, DataError, UnreadableError
from medvit.files.atomic import write_text
from medvit.files.spreadsheets import csv_text
from medvit.progress import with_progress
from medvit.sources import Location
from medvit.sources.options import is_url
from medvit.sources.pacs import SOURCE as PACS
from medvit.sources.transfer import quiet
from medvit.stage import Run, StageConfig, stage
from medvit.summary import Summary, counted

SENT = "sent.csv"
COLUMNS = ("object", "state", "code", "reason", "attempt", "time", "sha256")


class SendConfig(StageConfig):
    """Options of `medvit send`."""

    USES_TORCH: ClassVar[bool] = False
    MAY_CHANGE: ClassVar[tuple[str, ...]] = (*StageConfig.MAY_CHANGE, "archive")

    predictions: Path
    """Folder of results, made by predict. All DICOM objects of its finished studies are sent."""
    to: Location = Field(json_schema_extra={"private": True})
    """Archive to send to: https://HOST/ROOT for DICOMweb (STOW-RS), or pacs://AET@HOST:PORT for DICOM (C-STORE)."""
    output: Path
    """New folder for the record of the delivery. An interrupted delivery continues there with resume=true."""
    only_check: bool = False
    """Send nothing; only check that the archive has each study with the same patient."""
    archive: ArchiveConfig = Field(default_factory=ArchiveConfig)


@dataclass(frozen=True)
class SentResults:
    """Finished delivery: `sent.csv`, with a row for each object, and the journal of all steps."""

    folder: Path
    steps: tuple[DeliveryStep, ...]

    def summary(self) -> Summary:
        """Return the numbers of objects by state."""
        states = list(dict.fromkeys(step.state for step in self.steps))
        lines = [(state, counted(sum(step.state == state for step in self.steps), "object")) for state in states]
        return Summary(lines, {SENT: "a row for each object"})


@stage
def send(config: SendConfig, run: Run) -> SentResults:
    """Send results to an archive, after a check of the patient, and confirm that the archive has them."""
    if not is_url(config.to):
        raise ConfigError("`to` is not a server; expected https://HOST/ROOT or pacs://AET@HOST:PORT")
    run.require_same("archive", hashlib.sha256(config.to.encode()).hexdigest())
    studies = {study: files for study, files in dicom_files(config.predictions).items() if files}
    if not studies:
        raise DataError(
            f"{config.predictions} has no DICOM object of a finished study; give the output of predict, with an output "
            "in DICOM format such as outputs=[dicom_seg]"
        )
    journal = DeliveryJournal(run.folder)
    with quiet(), _connected(config.to, config.archive) as archive:
        delivery = Delivery(archive, config.archive, journal, config.only_check)
        for files in with_progress(studies.values(), total=len(studies), title="send", unit="study"):
            objects = []
            for path in files:
                name = path.relative_to(config.predictions).as_posix()
                try:
                    objects.append(read_object(path, name))
                except UnreadableError as error:
                    journal.add(DeliveryStep(name, "", "failed", error.code, str(error)))
            delivery.deliver(objects)

    steps = journal.steps
    write_text(run.folder / SENT, csv_text(COLUMNS, [[getattr(step, name) for name in COLUMNS] for step in steps]))
    run.keep(SENT)
    accepted = (*DELIVERED, "checked")
    run.failures += [f"{step.object}: {step.reason}" for step in steps if step.state not in accepted]
    run.tracker.metrics({f"num_{state}": number for state, number in journal.counts.items()})
    return SentResults(run.folder, tuple(steps))


@contextmanager
def _connected(location: str, options: ArchiveConfig) -> Iterator[ResultArchive]:
    connect = connect_dimse if PACS.knows(location) else connect_web
    with connect(location, options) as archive:
        yield archive
