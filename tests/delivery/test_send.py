"""Delivery: the right patient, every object once, and the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydicom
import pytest
import requests
from pydicom.filereader import read_preamble
from pydicom.uid import EnhancedCTImageStorage

from medvit.delivery import ArchiveConfig, ResultArchive
from medvit.delivery.dicomweb import connect as connect_web
from medvit.delivery.dimse import connect as connect_dimse
from medvit.delivery.identity import StudyIdentity
from medvit.delivery.journal import JOURNAL, DeliveryJournal
from medvit.delivery.objects import DicomObject, read_object
from medvit.delivery.send import IDENTITY_DIFFERS, NOT_LISTED, STUDY_MISSING, Delivery
from medvit.errors import DataError
from tests.delivery.conftest import ChosenArchive, write_results
from tests.sources.conftest import PASSWORD, USER, Orthanc

Kind = Literal["web", "dimse"]
KINDS: list[Kind] = ["web", "dimse"]
QUICK = {"retries": 2, "backoff_s": 0.01, "timeout_s": 5.0, "confirm_s": 0.2}


@pytest.fixture(scope="module")
def make_full(make_orthanc: Callable[..., Orthanc], studies: Path) -> Callable[[], Orthanc]:
    def make() -> Orthanc:
        return make_orthanc().upload(sorted(studies.rglob("*.dcm")))

    return make


def connected(server: Orthanc, kind: Kind, secrets: dict[str, str]):
    options = ArchiveConfig.parse({**QUICK, "auth": secrets if kind == "web" else {}})
    return connect_web(server.web, options) if kind == "web" else connect_dimse(server.pacs, options)


def deliver(archive: ResultArchive, paths: list[Path], folder: Path, *, only_check: bool = False) -> DeliveryJournal:
    journal = DeliveryJournal(folder)
    delivery = Delivery(archive, ArchiveConfig.parse(QUICK), journal, only_check)
    delivery.deliver([read_object(path, f"{path.parent.name}/{path.name}") for path in paths])
    return journal


def states(journal: DeliveryJournal) -> list[str]:
    return [step.state for step in journal.steps]


def get(server: Orthanc, path: str) -> requests.Response:
    return requests.get(f"http://127.0.0.1:{server.http_port}/{path}", auth=(USER, PASSWORD), timeout=10)


def data_set_bytes(content: bytes) -> bytes:
    """Return the bytes after the file meta information, which an archive writes itself."""
    file = io.BytesIO(content)
    read_preamble(file, force=False)
    pydicom.filereader._read_file_meta_info(file)
    return file.read()


@pytest.mark.parametrize("kind", KINDS)
def test_the_archive_has_every_object_once_and_with_its_bytes(kind, make_full, studies, secrets, tmp_path):
    server, paths = make_full(), write_results(tmp_path / "results", studies)
    before = get(server, "statistics").json()["CountInstances"]
    with connected(server, kind, secrets) as archive:
        first = deliver(archive, paths, tmp_path)
        (tmp_path / "again").mkdir()
        again = deliver(archive, paths, tmp_path / "again")
    assert states(first) == ["confirmed"] * 3
    assert states(again) == ["present"] * 3
    assert get(server, "statistics").json()["CountInstances"] == before + 3
    for path in paths:
        uid = pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID
        found = requests.post(
            f"http://127.0.0.1:{server.http_port}/tools/lookup", data=uid, auth=(USER, PASSWORD), timeout=10
        ).json()
        stored = get(server, f"instances/{found[0]['ID']}/file").content
        assert data_set_bytes(stored) == data_set_bytes(path.read_bytes())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"PatientID": "somebody-else"}, IDENTITY_DIFFERS, "PatientID"),
        ({"PatientBirthDate": "19010203"}, IDENTITY_DIFFERS, "PatientBirthDate"),
        ({"AccessionNumber": "another-order"}, IDENTITY_DIFFERS, "AccessionNumber"),
        ({"StudyInstanceUID": "2.25.99"}, STUDY_MISSING, "merged or deleted"),
    ],
)
def test_results_of_another_patient_are_held(kind, changes, code, named, request, tmp_path):
    server, studies, secrets = (request.getfixturevalue(name) for name in ("holding", "studies", "secrets"))
    paths = write_results(tmp_path / "results", studies, **changes)
    before = get(server, "statistics").json()["CountInstances"]
    with connected(server, kind, secrets) as archive:
        journal = deliver(archive, paths, tmp_path)
    assert {(step.state, step.code) for step in journal.steps} == {("held", code)}
    assert all(named in step.reason for step in journal.steps)
    assert not any(value in (tmp_path / JOURNAL).read_text() for value in changes.values())
    assert get(server, "statistics").json()["CountInstances"] == before


@pytest.fixture(scope="module")
def holding(make_orthanc: Callable[..., Orthanc], studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Orthanc:
    """An archive whose studies have a birth date and an accession number."""
    folder = tmp_path_factory.mktemp("complete")
    for number, path in enumerate(sorted(studies.rglob("*.dcm"))):
        dataset = pydicom.dcmread(path)
        dataset.PatientBirthDate, dataset.AccessionNumber = "19500607", "order-1"
        dataset.save_as(folder / f"{number}.dcm")
    return make_orthanc().upload(sorted(folder.iterdir()))


@dataclass
class Interrupted:
    """ResultArchive whose connection ends with an interrupt of the process, before or after an object is stored."""

    archive: ResultArchive
    is_before: bool

    def study(self, uid: str) -> StudyIdentity | None:
        return self.archive.study(uid)

    def has(self, one: DicomObject) -> bool:
        return self.archive.has(one)

    def store(self, one: DicomObject) -> None:
        if not self.is_before:
            self.archive.store(one)
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_before", [True, False])
def test_an_interrupted_delivery_continues_without_doubles(kind, is_before, make_full, studies, secrets, tmp_path):
    server, paths = make_full(), write_results(tmp_path / "results", studies)
    before = get(server, "statistics").json()["CountInstances"]
    with connected(server, kind, secrets) as archive:
        with pytest.raises(KeyboardInterrupt):
            deliver(Interrupted(archive, is_before), paths, tmp_path)
        with (tmp_path / JOURNAL).open("ab") as file:
            file.write(b'{"object": "s-0/resu')  # the process was killed while it wrote
        journal = deliver(archive, paths, tmp_path)
    assert states(journal) == ["confirmed"] * 3
    assert get(server, "statistics").json()["CountInstances"] == before + 3


def deliver_to(archive: ChosenArchive, paths: list[Path], folder: Path) -> DeliveryJournal:
    with connect_dimse(archive.url, ArchiveConfig.parse(QUICK)) as connection:
        return deliver(connection, paths, folder)


def test_an_archive_out_of_resources_is_asked_again(make_archive, studies, tmp_path):
    archive = make_archive(statuses=[0xA700, 0xA700, 0x0000])
    journal = deliver_to(archive, write_results(tmp_path / "results", studies)[:1], tmp_path)
    assert states(journal) == ["confirmed"]
    assert len(archive.stored) == 3


@pytest.mark.parametrize("status", [0x0122, 0x0124, 0xA900, 0xC000])
def test_a_final_refusal_is_not_repeated_and_does_not_stop_the_others(status, make_archive, studies, tmp_path):
    archive = make_archive(statuses=[status])
    journal = deliver_to(archive, write_results(tmp_path / "results", studies), tmp_path)
    assert states(journal) == ["failed", "confirmed", "confirmed"]
    assert f"0x{status:04X}" in journal.steps[0].reason
    assert len(archive.stored) == 3


def test_a_warning_counts_as_stored(make_archive, studies, tmp_path):
    archive = make_archive(statuses=[0xB000])
    assert states(deliver_to(archive, write_results(tmp_path / "r", studies)[:1], tmp_path)) == ["confirmed"]


def test_an_archive_that_accepts_and_forgets_is_reported(make_archive, studies, tmp_path):
    archive = make_archive(forgets=True)
    journal = deliver_to(archive, write_results(tmp_path / "results", studies)[:1], tmp_path)
    assert [(step.state, step.code) for step in journal.steps] == [("failed", NOT_LISTED)]


def test_a_kind_of_object_that_the_archive_does_not_accept_is_refused(make_archive, studies, tmp_path):
    archive = make_archive(classes=(EnhancedCTImageStorage,))
    journal = deliver_to(archive, write_results(tmp_path / "results", studies), tmp_path)
    assert {(step.state, step.code) for step in journal.steps} == {("failed", "refused")}
    assert archive.stored == []


def test_an_archive_that_lists_late_gets_no_object_twice_after_a_kill(make_archive, studies, tmp_path):
    archive = make_archive(late_s=0.6)
    paths = write_results(tmp_path / "results", studies)[:1]
    options = ArchiveConfig.parse(QUICK | {"confirm_s": 5.0})
    with connect_dimse(archive.url, options) as connection:
        (one,) = [read_object(path, "s-0/result.dcm") for path in paths]
        with pytest.raises(KeyboardInterrupt):
            Delivery(Interrupted(connection, is_before=False), options, DeliveryJournal(tmp_path)).deliver([one])
        journal = DeliveryJournal(tmp_path)
        Delivery(connection, options, journal).deliver([one])
    assert states(journal) == ["confirmed"]
    assert len(archive.stored) == 1


def test_a_file_that_changed_after_its_patient_was_checked_is_not_sent(make_archive, studies, tmp_path):
    archive = make_archive()
    (path,) = write_results(tmp_path / "results", studies)[:1]
    one = read_object(path, "s-0/result.dcm")
    dataset = pydicom.dcmread(path)
    dataset.PatientID = "another"
    dataset.save_as(path)
    journal = DeliveryJournal(tmp_path)
    with connect_dimse(archive.url, ArchiveConfig.parse(QUICK)) as connection:
        Delivery(connection, ArchiveConfig.parse(QUICK), journal).deliver([one])
    assert [(step.state, step.code) for step in journal.steps] == [("failed", "unreadable")]
    assert archive.stored == []


def test_a_lost_connection_of_unknown_outcome_is_reported_without_the_address(make_archive, studies, tmp_path):
    archive = make_archive(statuses=[0xA700] * 3)
    journal = deliver_to(archive, write_results(tmp_path / "results", studies)[:1], tmp_path)
    assert [(step.state, step.code) for step in journal.steps] == [("failed", "interrupted")]
    assert "127.0.0.1" not in (tmp_path / JOURNAL).read_text()


def test_a_check_sends_nothing(make_archive, studies, tmp_path):
    archive = make_archive()
    with connect_dimse(archive.url, ArchiveConfig.parse(QUICK)) as connection:
        journal = deliver(connection, write_results(tmp_path / "results", studies), tmp_path, only_check=True)
    assert states(journal) == ["checked"] * 3
    assert archive.stored == []


def test_a_changed_file_is_delivered_again(make_archive, studies, tmp_path):
    archive, paths = make_archive(), write_results(tmp_path / "results", studies)[:1]
    deliver_to(archive, paths, tmp_path)
    dataset = pydicom.dcmread(paths[0])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.4711"
    dataset.save_as(paths[0])
    assert states(deliver_to(archive, paths, tmp_path)) == ["confirmed"]
    assert archive.stored[-1] == "2.25.4711"


def test_a_damaged_journal_is_refused(tmp_path):
    (tmp_path / JOURNAL).write_text("not JSON\n{}\n")
    with pytest.raises(DataError, match="damaged"):
        DeliveryJournal(tmp_path)


def test_attributes_that_an_archive_does_not_return_are_not_compared_but_the_patient_is():
    own = StudyIdentity({"PatientID": "p", "PatientBirthDate": "19500607", "AccessionNumber": "a"})
    assert own.differences(StudyIdentity({"PatientID": "p"})) == []
    assert own.not_compared(StudyIdentity({"PatientID": "p"})) == ["PatientBirthDate", "AccessionNumber"]
    assert StudyIdentity({"PatientID": "p"}).not_compared(own) == ["PatientBirthDate", "AccessionNumber"]
    assert StudyIdentity({}).differences(StudyIdentity({})) == ["PatientID"]
    assert own.differences(StudyIdentity.common([own, StudyIdentity({"PatientID": "q"})])) == ["PatientID"]
    assert StudyIdentity.common([own, own]) == own
    assert own.differences(StudyIdentity({})) == ["PatientID"]
    assert own.differences(StudyIdentity({"PatientID": "p ", "AccessionNumber": "b"})) == ["AccessionNumber"]
