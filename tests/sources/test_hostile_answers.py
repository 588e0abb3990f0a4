"""Answers of a server are checked: another's object under the requested UID, and endless answers."""

from __future__ import annotations

import itertools
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from medvit.sources import associations, punctual
from medvit.sources import http as http_module
from medvit.sources.associations import Peer, associated, checked
from medvit.sources.failures import CutShortError, UnreachableError
from medvit.sources.http import session
from medvit.sources.intake import MAX_STRANGE, SUCCESS, Intake, RemoteSeries
from medvit.sources.options import RetrieveConfig
from medvit.sources.pacs import FIND
from medvit.sources.punctual import chunks
from medvit.sources.receiver import Receiver
from medvit.sources.spool import Spool
from tests.plugins.mr_series import AXIAL, slice_header

SERIES = RemoteSeries("1.1", "1.2", ("1.3", "1.4"), patients=frozenset({"P1"}))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n\r\n"


def instance(**over: str) -> bytes:
    header = slice_header(2, 2, (1.0, 1.0), AXIAL, (0.0, 0.0, 0.0))
    identifiers = {
        "PatientID": "P1",
        "StudyInstanceUID": "1.1",
        "SeriesInstanceUID": "1.2",
        "SOPInstanceUID": "1.3",
        **over,
    }
    for keyword, value in identifiers.items():
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
    assert intake.objection == (f"the server sent an instance of another {what} under the UID of a requested one")
    assert intake.store(instance()) == SUCCESS
    assert kept == [1]


def test_instances_without_end_that_nobody_asked_for_end_the_answer(intake: Intake) -> None:
    def send() -> None:
        for number in range(MAX_STRANGE + 10):
            intake.begin()
            intake.write(instance(SOPInstanceUID=f"1.5.{number}"))
            intake.end()

    with pytest.raises(CutShortError, match="keeps sending"):
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
        http_module.explained(url, "retrieve"),
    ):
        http.get(url, timeout=5.0)


REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: /there\r\n\r\n"


def test_the_body_of_a_redirect_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(punctual, "MAX_ANSWER_BYTES", 2**20)
    options, endless = RetrieveConfig.parse({"timeout_s": 0.3}), itertools.repeat(b"x" * 2**16)
    with serving(lambda: itertools.chain([REDIRECT], endless)) as url, session(url, options) as http:  # noqa: SIM117
        with pytest.raises(CutShortError, match="longer than 1 MiB"):
            http.get(url, stream=True, timeout=5.0)
    with serving(lambda: itertools.chain([REDIRECT], drops()), pause_s=0.1) as url, session(url, options) as http:  # noqa: SIM117
        with pytest.raises(CutShortError, match="less than 64 KiB in"):
            http.get(url, stream=True, timeout=0.3)


def pass_on(listener: socket.socket, speaker: socket.socket, num_quick: float) -> None:
    """Pass on the data of one side: this many messages at once, all later bytes one by one."""
    with suppress(OSError):
        for number in itertools.count():
            if not (data := speaker.recv(2**16)):
                return
            for piece in [data] if number < num_quick else (bytes([byte]) for byte in data):
                listener.sendall(piece)
                time.sleep(0 if number < num_quick else 0.1)


@contextmanager
def slow_pacs(num_quick: int) -> Iterator[int]:
    """The port of a DICOM server that sends each byte with a delay after this many messages."""
    from pynetdicom import AE, evt

    entity = AE()
    entity.add_supported_context(FIND)
    handlers = [(evt.EVT_C_FIND, lambda event: iter([(0xFF00, event.identifier)]))]
    there = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    with socket.create_server(("127.0.0.1", 0)) as before:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = before.accept()
                    server = socket.create_connection(there.server_address)
                    for ends in ((client, server, num_quick), (server, client, math.inf)):
                        threading.Thread(target=pass_on, args=ends, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield before.getsockname()[1]
    there.shutdown()


@pytest.mark.parametrize("num_quick", [0, 1], ids=["association", "search"])
def test_a_dicom_server_of_a_byte_now_and_then_ends_at_the_timeout(num_quick: int) -> None:
    from pydicom import Dataset
    from pynetdicom import build_context

    asked, started = Dataset(), time.monotonic()
    asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", ""

    def search(peer: Peer) -> None:
        with associated(peer, [build_context(FIND)]) as association:
            for status, _ in association.send_c_find(asked, FIND):
                checked(status, peer, "a search")

    with slow_pacs(num_quick) as port, pytest.raises((CutShortError, UnreachableError)):
        search(Peer("PACS", "127.0.0.1", port, RetrieveConfig.parse({"timeout_s": 0.5})))
    assert time.monotonic() - started < 5.0


def dribble(connection: socket.socket) -> None:
    for byte in itertools.repeat(b"x", 50):
        connection.sendall(byte)
        time.sleep(0.1)


def test_who_sends_us_a_byte_now_and_then_holds_up_nothing() -> None:
    options = RetrieveConfig.parse({"timeout_s": 0.3, "pacs": {"port": 0}})
    with socket.create_server(("127.0.0.1", 0)) as pacs:
        peer = Peer("PACS", "127.0.0.1", pacs.getsockname()[1], options)
        with (
            Receiver.listening(peer, options) as receiver,
            socket.create_connection(("127.0.0.1", receiver.port)) as slow,
        ):
            slow.sendall(b"\1\0\0\0\xff\xff")
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                dribble(slow)


def test_a_message_part_of_gigabytes_is_not_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(OSError, match="longer than 1048576"):
        associations._receive(ours, 2**31, 1.0)
