"""Records that MLflow could not receive during a stage are sent later, by one command, to a real server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medvit.artifacts import Lineage
from medvit.errors import ConfigError
from medvit.files.lock import take
from medvit.phantoms import write_ct_studies
from medvit.tracking import FOLDER, TrackingConfig, start
from pipelines.__main__ import main
from pipelines.ingest import ingest
from pipelines.sync import sync
from tests.plugins.tracking_template import MakeStore
from tests.processes.forked import Forked, heard, say

START_S = 120


class Server:
    """A separate MLflow server on this machine, which can be paused."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db", "--artifacts-destination", "artifacts"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1", *store],
            cwd=self._folder,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # its jobs are nine more processes
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + START_S
        while not self._is_up():
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.2)

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, number)

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture(scope="module")
def server(make_store: MakeStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    make_store(folder)
    made = Server(folder)
    yield made
    made.send(signal.SIGKILL)


def test_a_server_that_is_down_or_silent_gets_all_of_it_later(server: Server, tmp_path: Path) -> None:
    write_ct_studies(tmp_path / "source", 1)
    tracking = {"uri": server.uri, "patience_s": 3}
    made = ingest(source=tmp_path / "source", dataset=tmp_path / "ds", key=tmp_path / "key", tracking=tracking)
    assert Lineage.read(made.folder).run_id is None

    server.start()
    tracker = start(TrackingConfig.parse(tracking | {"patience_s": 30}), "pretrain", tmp_path)
    assert tracker.run_id is not None
    server.send(signal.SIGSTOP)
    for step in range(300):
        tracker.metrics({"loss": float(step)}, step=step)
    tracker._config = TrackingConfig.parse(tracking)  # type: ignore[attr-defined]
    began = time.monotonic()
    tracker.text("hello", "note.txt")
    tracker.finish("FINISHED")
    assert time.monotonic() - began < 10
    server.send(signal.SIGCONT)

    done = sync(runs=tmp_path)
    assert not done.failures
    assert set(done.sent) == {made.folder, tmp_path}
    assert not list(tmp_path.rglob(FOLDER))
    client = MlflowClient(tracking_uri=server.uri)
    run = client.get_run(Lineage.read(made.folder).run_id)
    assert (run.info.status, run.data.params["scanning.modality"]) == ("FINISHED", "")
    assert {"card.md", "card.json", "config.yaml"} <= {one.path for one in client.list_artifacts(run.info.run_id)}
    assert len(client.get_metric_history(tracker.run_id, "loss")) == 300
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert [one.path for one in client.list_artifacts(tracker.run_id)] == ["note.txt"]
    assert len(client.search_runs([run.info.experiment_id])) == 2, "no run was made twice"


def test_runs_that_cannot_be_sent_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    start(TrackingConfig(uri=f"sqlite:///{tmp_path}/file/x.db"), "ingest", tmp_path / "run").finish("FINISHED")
    assert main(["sync", f"runs={tmp_path}"]) == 3
    printed = capsys.readouterr()
    assert "sent the records of 0 runs" in printed.out
    assert "finished, but 1 runs could not be sent" in printed.err
    assert f"{tmp_path / 'run'}: MLflow at sqlite:///{tmp_path}/file/x.db cannot be used" in printed.err


def hold(folder: Path) -> None:
    lock = take(folder / ".lock", "medvit ingest")
    start(TrackingConfig(uri=f"sqlite:///{folder}/file/x.db"), "ingest", folder).finish("FINISHED")
    say("ready")
    heard()
    del lock


def test_a_run_at_work_is_left_to_itself(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # a file, so that a store cannot be made below it
    with Forked(hold, tmp_path) as other:
        assert other.line() == "ready\n"
        (line,) = sync(runs=tmp_path).failures
        assert f"medvit ingest of process {other.pid}" in line
        other.tell("")


def test_nothing_to_send_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", f"runs={tmp_path}"]) == 0
    assert "sent the records of 0 runs" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="no folder at"):
        sync(runs=tmp_path / "absent")
