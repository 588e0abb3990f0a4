"""A killed service loses nothing that was answered, and does nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
import pytest

from tests.service.conftest import PATIENCE_S, Start, association, send, until

Studies = list[list[pydicom.Dataset]]
ROOT = Path(__file__).parents[2]


class Process:
    """`medvit serve` in a process of its own."""

    def __init__(self, tmp_path: Path, checkpoint: Path, quiet_s: float) -> None:
        options = (
            f"checkpoint={checkpoint} folder={tmp_path / 'service'} key={tmp_path / 'site.key'} receive.port=0 "
            f"web.port=0 complete.quiet_s={quiet_s} min_free_gib=0"
        )
        command = [sys.executable, "-m", "pipelines", "serve", *options.split()]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        words = self.process.stdout.readline().replace(",", "").split()
        self.port = int(words[words.index("port") + 1])

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    made: list[Process] = []
    yield made
    for one in made:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


def send_until_killed(one: Process, datasets: Sequence[pydicom.Dataset], number: int) -> list[pydicom.Dataset]:
    """Send instances, and kill the service after a number of them; return those answered with success."""
    answered = []
    with association(one.port, datasets) as found:
        for count, dataset in enumerate(datasets):
            if count == number:
                one.end(signal.SIGKILL)
                return answered
            if found.send_c_store(dataset).get("Status") == 0x0000:
                answered.append(dataset)
    return answered


def test_nothing_is_lost_or_doubled_by_kills_between_reception_and_prediction(
    tmp_path: Path, checkpoint: Path, ct: Studies, start: Start, processes: list[Process]
) -> None:
    processes.append(Process(tmp_path, checkpoint, quiet_s=600))
    answered = send_until_killed(processes[-1], ct[0], len(ct[0]) // 2)  # killed while it receives
    assert len(answered) == len(ct[0]) // 2
    orphan = next((tmp_path / "service" / "received").rglob("*.dcm"))
    processes.append(Process(tmp_path, checkpoint, quiet_s=600))
    stored = {pydicom.dcmread(p).SOPInstanceUID for p in (tmp_path / "service" / "received").rglob("*.dcm")}
    assert stored == {one.SOPInstanceUID for one in answered}
    assert orphan.is_file()
    send(processes[-1].port, ct[0])  # the sender begins again
    processes[-1].end(signal.SIGKILL)  # after reception, before completeness
    served = start()
    (job,) = served.ended(1)
    assert (job["status"], served.studies()[0]["instances"]) == ("done", len(ct[0]))
    audit = [json.loads(line) for line in (served.folder / "audit.jsonl").read_text().splitlines()]
    assert [line["event"] for line in audit if line["event"] in ("received", "predicted")] == ["received", "predicted"]


def test_a_file_whose_row_was_not_written_is_taken_up(
    tmp_path: Path, checkpoint: Path, ct: Studies, start: Start
) -> None:
    served = start(complete={"quiet_s": 600})
    send(served.port, ct[0][:3])
    served.service.store.database.write("DELETE FROM instances WHERE uid = ?", ct[0][0].SOPInstanceUID)
    start.stop()  # type: ignore[attr-defined]
    served = start(complete={"quiet_s": 600})
    assert served.studies()[0]["instances"] == 3


def test_a_killed_worker_loses_no_study(start: Start, ct: Studies) -> None:
    served = start()
    send(served.port, ct[0])
    until(lambda: served.service.loop.running)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in map(int, children):
        if b"multiprocessing.spawn" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    (job,) = served.ended(1)
    assert (job["status"], job["attempts"]) == ("done", 2)


def test_a_service_that_is_told_to_end_ends_with_status_0(
    tmp_path: Path, checkpoint: Path, processes: list[Process]
) -> None:
    processes.append(Process(tmp_path, checkpoint, quiet_s=1))
    assert processes[-1].end(signal.SIGTERM) == 0
    events = [json.loads(line)["event"] for line in (tmp_path / "service" / "audit.jsonl").read_text().splitlines()]
    assert events == ["started", "stopped"]
