"""Archives on this machine for deliveries: Orthanc, and a DICOM server whose answers a test chooses."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import UID, SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from medvit.artifacts import STATUS
from tests.sources.conftest import AET, make_orthanc, secrets, studies

__all__ = ["make_orthanc", "secrets", "studies"]


def write_results(folder: Path, studies: Path, **changes: str) -> list[Path]:
    """Write a folder of predictions with one object for each study, whose attributes may be changed."""
    paths = []
    for number, source in enumerate(sorted(studies.iterdir())):
        dataset = pydicom.dcmread(min(source.rglob("*.dcm")))
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        uid = UID(f"2.25.{17 + number}")
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.SeriesInstanceUID = UID(f"2.25.{170 + number}")
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        paths.append(folder / f"s-{number}" / "result.dcm")
        paths[-1].parent.mkdir(parents=True)
        dataset.save_as(paths[-1])
    lines = [["study", "status"], *([path.parent.name, "done"] for path in paths)]
    with (folder / STATUS).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return paths


@dataclass
class ChosenArchive:
    """DICOM server with studies and objects, whose statuses for C-STORE are chosen by a test.

    Objects are stored if the status is a success or a warning, unless the archive `forgets` them.
    """

    studies: dict[str, pydicom.Dataset]
    statuses: list[int] = field(default_factory=list)
    forgets: bool = False
    late_s: float = 0.0
    """Seconds after which a stored object is listed."""
    stored: list[str] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    port: int = 0

    @property
    def url(self) -> str:
        return f"pacs://{AET}@127.0.0.1:{self.port}"

    def find(self, event: evt.Event) -> Iterator[tuple[int, pydicom.Dataset | None]]:
        asked = event.identifier
        if asked.QueryRetrieveLevel == "STUDY":
            if asked.StudyInstanceUID in self.studies:
                yield 0xFF00, self.studies[asked.StudyInstanceUID]
        elif asked.SOPInstanceUID in self.listed:
            yield 0xFF00, asked
        yield 0x0000, None

    def store(self, event: evt.Event) -> int:
        status = self.statuses.pop(0) if self.statuses else 0x0000
        uid = str(event.request.AffectedSOPInstanceUID)
        self.stored.append(uid)
        if not self.forgets and (status == 0 or status & 0xF000 == 0xB000):
            threading.Timer(self.late_s, self.listed.add, [uid]).start() if self.late_s else self.listed.add(uid)
        return status


@pytest.fixture
def make_archive(studies: Path) -> Iterator[Callable[..., ChosenArchive]]:
    """Makes archives that have the studies; `classes` are the SOP classes that they accept."""
    servers: list[ApplicationEntity] = []

    def make(classes: tuple[str, ...] = (SecondaryCaptureImageStorage,), **options: object) -> ChosenArchive:
        known = {}
        for folder in studies.iterdir():
            dataset = pydicom.dcmread(min(folder.rglob("*.dcm")), stop_before_pixels=True)
            known[dataset.StudyInstanceUID] = dataset
        archive = ChosenArchive(known, **options)  # type: ignore[arg-type]
        entity = AE(ae_title=AET)
        entity.supported_contexts = []
        for uid in (Verification, StudyRootQueryRetrieveInformationModelFind, *classes):
            entity.add_supported_context(uid)
        handlers = [(evt.EVT_C_FIND, archive.find), (evt.EVT_C_STORE, archive.store)]
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        archive.port = server.server_address[1]
        servers.append(server)
        return archive

    yield make
    for server in servers:
        server.shutdown()
