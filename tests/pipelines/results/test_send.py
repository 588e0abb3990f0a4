"""The stage `send`: results of a folder in an archive, what is listed of them, and bad input."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest

from medvit.artifacts import STATUS
from medvit.errors import ConfigError, DataError, SourceError
from pipelines.__main__ import main
from pipelines.results.send import SENT, send
from tests.delivery.conftest import make_archive, studies, write_results

__all__ = ["make_archive", "studies"]

QUICK = {"retries": 1, "backoff_s": 0.01, "timeout_s": 5.0, "confirm_s": 0.2}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / SENT).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_objects_of_finished_studies_are_sent_and_listed(make_archive, studies, tmp_path):
    archive = make_archive()
    paths = write_results(tmp_path / "results", studies)
    status = tmp_path / "results" / STATUS
    status.write_text(status.read_text().replace("s-2,done", "s-2,failed"))
    sent = send(predictions=tmp_path / "results", to=archive.url, output=tmp_path / "sent", archive=QUICK)
    assert [(row["object"], row["state"]) for row in rows(sent.folder)] == [
        ("s-0/result.dcm", "confirmed"),
        ("s-1/result.dcm", "confirmed"),
    ]
    uid = pydicom.dcmread(paths[2], stop_before_pixels=True).SOPInstanceUID
    assert uid not in archive.listed


def test_objects_of_several_models_of_a_study_are_listed_each(make_archive, studies, tmp_path):
    archive = make_archive()
    paths = write_results(tmp_path / "results", studies)
    for number, model in enumerate(("liver", "vessels")):
        dataset = pydicom.dcmread(paths[0])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"2.25.9{number}"
        (paths[0].parent / model).mkdir()
        dataset.save_as(paths[0].parent / model / "result.dcm")
    archive.statuses[:] = [0xA900]
    sent = send(predictions=tmp_path / "results", to=archive.url, output=tmp_path / "sent", archive=QUICK)
    found = {row["object"]: (row["state"], row["attempt"]) for row in rows(sent.folder)}
    assert found["s-0/liver/result.dcm"][0] == "failed"
    assert found["s-0/vessels/result.dcm"] == ("confirmed", "1")
    assert len(found) == 5


def test_the_exit_status_reports_objects_that_were_not_delivered_without_naming_a_patient(
    make_archive, studies, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    archive = make_archive()
    paths = write_results(tmp_path / "results", studies, PatientID="SECRET-4711")
    paths[1].write_bytes(b"not DICOM")
    words = ["predictions=results", f"to={archive.url}", "output=sent", "archive.confirm_s=0.2"]
    assert main(["send", *words]) == 3
    output = "".join(capsys.readouterr())
    assert "PatientID" in output
    assert [row["state"] for row in rows(tmp_path / "sent")] == ["held", "failed", "held"]
    assert archive.stored == []
    written = [path for path in (tmp_path / "sent").rglob("*") if path.is_file()]
    assert not any(b"SECRET-4711" in path.read_bytes() for path in written)
    assert "SECRET-4711" not in output


def test_a_delivery_that_could_not_begin_can_be_repeated(make_archive, studies, tmp_path):
    write_results(tmp_path / "results", studies)
    options = {"predictions": tmp_path / "results", "output": tmp_path / "sent", "archive": QUICK}
    with pytest.raises(SourceError, match="cannot be reached"):
        send(**options, to="pacs://ARCHIVE@127.0.0.1:1")
    archive = make_archive()
    assert {step.state for step in send(**options, to=archive.url).steps} == {"confirmed"}


def test_input_that_cannot_be_sent_is_refused(studies, tmp_path):
    paths = write_results(tmp_path / "results", studies)
    to = "pacs://ARCHIVE@127.0.0.1:1"
    with pytest.raises(ConfigError, match="not a server"):
        send(predictions=tmp_path / "results", to="folder", output=tmp_path / "a")
    with pytest.raises(DataError, match="not a folder of predictions"):
        send(predictions=tmp_path, to=to, output=tmp_path / "a")
    for path in paths:
        path.unlink()
    with pytest.raises(DataError, match="no DICOM object"):
        send(predictions=tmp_path / "results", to=to, output=tmp_path / "a")


class RefusingWeb(BaseHTTPRequestHandler):
    """DICOMweb server that has any study of one patient and refuses every object, as PS3.18 10.5.3 describes."""

    patient = ""

    def do_GET(self) -> None:
        uid = parse_qs(urlsplit(self.path).query).get("StudyInstanceUID", [""])[0]
        study = {"00100020": {"vr": "LO", "Value": [self.patient]}, "0020000D": {"vr": "UI", "Value": [uid]}}
        is_study = "/series" not in self.path and "offset=0" in self.path
        self._answer(200, [study] if is_study else [])

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        failed = {"00081197": {"vr": "US", "Value": [0xA900]}}
        self._answer(409, {"00081198": {"vr": "SQ", "Value": [failed]}})

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing_web(studies: Path) -> Iterator[str]:
    patient = pydicom.dcmread(min(studies.rglob("*.dcm")), stop_before_pixels=True).PatientID
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Refusing", (RefusingWeb,), {"patient": patient}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/dicom-web"
    server.shutdown()
    server.server_close()


def test_the_reason_of_a_refusal_by_stow_is_listed(refusing_web, studies, tmp_path):
    patient = pydicom.dcmread(min(studies.rglob("*.dcm")), stop_before_pixels=True).PatientID
    write_results(tmp_path / "results", studies, PatientID=patient)
    sent = send(predictions=tmp_path / "results", to=refusing_web, output=tmp_path / "sent", archive=QUICK)
    assert [row["state"] for row in rows(sent.folder)] == ["failed"] * 3
    assert all("0xA900" in row["reason"] for row in rows(sent.folder))
