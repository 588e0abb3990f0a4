"""What a server sends is checked: another's object under the UID that was asked for, and answers without end."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from medvit.sources import http as http_module
from medvit.sources import punctual
from medvit.sources.failures import CutShortError
from medvit.sources.http import session
from medvit.sources.intake import MAX_STRANGE, SUCCESS, Intake, RemoteSeries
from medvit.sources.options import RetrieveConfig
from medvit.sources.punctual import chunks
from medvit.sources.spool import Spool
from tests.plugins.mr_series import AXIAL, slice_header

SERIES = RemoteSeries("1.1", "1.2", ("1.3", "1.4"), patients=frozenset({"P1"}))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n\r\n"


def instance(**over: str) -> bytes:
    header = slice_header(2, 2, (1.0, 1.0), AXIAL, (0.0, 0.0, 0.0))
    told = {"PatientID": "P1", "StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.2", "SOPInstanceUID": "1.3", **over}
    for keyword, value in told.items():
        setattr(header, keyword, value)
    stream = BytesIO()
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    pydicom.dcmwrite(stream, header, enforce_file_format=True)
    return stream.getvalue()


@pytest.fixture
def intake(tmp_path: Path) -> Iterator[Intake]:
    spool = Spool.open(tmp_path / "spool", ("x",), is_kept=False, max_gib=1.0)
    yield Intake(spool, SERIES, SERIES.instances, threading.Event(), lambda number: None)
    spool.close()


@pytest.mark.parametrize(
    ("over", "what"),
    [
        ({"PatientID": "P2"}, "patient"),
        ({"PatientID": ""}, "patient"),
        ({"StudyInstanceUID": "1.9"}, "study"),
        ({"SeriesInstanceUID": "1.9"}, "series"),
    ],
)
def test_another_objects_under_the_uid_that_was_asked_for_is_not_kept(
    intake: Intake, over: dict[str, str], what: str
) -> None:
    kept: list[int] = []
    intake._arrived = kept.append
    intake.store(instance(**over))
    assert not kept
    assert intake.objection == (
        f"the server sent an instance of another {what} under the UID of one that was asked for"
    )
    assert intake.store(instance()) == SUCCESS
    assert kept == [1]


def test_instances_without_end_that_nobody_asked_for_end_the_answer(intake: Intake) -> None:
    def send() -> None:
        for number in range(MAX_STRANGE + 10):
            intake.begin()
            intake.write(instance(SOPInstanceUID=f"1.5.{number}"))
            intake.end()

    with pytest.raises(CutShortError, match="without end"):
        send()


@contextmanager
def serving(answer: Callable[[], Iterable[bytes]], pause_s: float = 0.0) -> Iterator[str]:
    """The URL of a server that answers anything with some bytes, one piece after the other."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.recv(2**16)
                        for piece in answer():
                            connection.sendall(piece)
                            time.sleep(pause_s)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.close()


def drops() -> Iterable[bytes]:
    return itertools.repeat(b"x", 100)


@pytest.mark.parametrize(
    "answer",
    [
        lambda: itertools.chain([HEAD], drops()),
        lambda: itertools.chain([b"HTTP/1.1 200 OK\r\nX: "], drops()),
        lambda: itertools.chain([HEAD[:-2] + b"Content-Length: 1000000\r\n\r\n"], drops()),
    ],
    ids=["body", "headers", "body of known length"],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_of_a_byte_now_and_then_ends_at_the_timeout(
    answer: Callable[[], Iterable[bytes]], is_streamed: bool
) -> None:
    options = RetrieveConfig.parse({"timeout_s": 0.3})
    started = time.monotonic()
    slow = pytest.raises(CutShortError, match="the server sent less than 64 KiB in")
    with serving(answer, pause_s=0.1) as url, session(url, options) as http, slow:
        list(chunks(http.get(url, stream=is_streamed, timeout=0.3), 0.3))
    assert time.monotonic() - started < 5.0


def test_a_page_without_end_is_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(punctual, "MAX_ANSWER_BYTES", 2**20)
    endless = pytest.raises(CutShortError, match="longer than 1 MiB")
    answer = itertools.repeat(b"x" * 2**16)
    with (
        endless,
        serving(lambda: itertools.chain([HEAD], answer)) as url,
        session(url, RetrieveConfig.parse({"timeout_s": 5.0})) as http,
        http_module.explained(url),
    ):
        http.get(url, timeout=5.0)
