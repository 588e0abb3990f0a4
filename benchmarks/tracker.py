"""Cost of the tracker: share of a training step and longest call, with MLflow in a file and on a slow server."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

from medvit.tracking import Tracker, TrackingConfig, start

ANSWER_S = 10.0
"""Seconds after which the slow server answers."""
SECONDS, WARM_UP = 35.0, 10
"""Seconds of training, which are several answers of the slow server, and steps that are not counted."""
METRICS_A_STEP = 5
START_S = 180.0
MAX_SHARE, MAX_BLOCK_S = 0.02, 0.05
"""Goals: the share of a step and the longest call on the training thread."""


@dataclass(frozen=True)
class TrackerCost:
    """Seconds of the calls of a tracker and of whole training steps, one of each per step."""

    calls: tuple[float, ...]
    steps: tuple[float, ...]

    @property
    def share(self) -> float:
        """Share of the time of all steps that is spent in calls of the tracker."""
        return sum(self.calls) / sum(self.steps)

    def __str__(self) -> str:
        typical = f"median call {1e6 * statistics.median(self.calls):.0f} us"
        step = f"median step {1e3 * statistics.median(self.steps):.1f} ms"
        return f"{step}, {typical}, {100 * self.share:.3f} % of a step, longest call {1e3 * max(self.calls):.2f} ms"


def run(folder: Path, repeats: int) -> None:
    """Measure the cost of recording `METRICS_A_STEP` metrics at every step, more than medvit records."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    print(f"tracker: {METRICS_A_STEP} metrics at each step of a small network, {SECONDS:g} s, {repeats} repeats")
    for number in range(repeats):
        for name, config in (("off", TrackingConfig(enabled=False)), ("SQLite", TrackingConfig(uri=uri))):
            _print(name, measured(config, folder / f"{name}-{number}"))
    with slow_server(folder, ANSWER_S) as slow:
        for number in range(repeats):
            config = TrackingConfig(uri=slow, patience_s=1.0)
            _print(f"answers after {ANSWER_S:g} s", measured(config, folder / f"slow-{number}"))
    print(f"goals: at most {100 * MAX_SHARE:g} % of a step, no call longer than {1e3 * MAX_BLOCK_S:g} ms")


def measured(config: TrackingConfig, folder: Path) -> TrackerCost:
    """Return the cost of a tracker during the training of a small network."""
    import torch

    folder.mkdir()
    torch.manual_seed(0)
    layers = [torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 256)]
    network = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(network.parameters())
    pixels = torch.randn(512, 256)
    tracker: Tracker = start(config, "finetune", folder)
    calls, steps = [], []
    end = time.monotonic() + SECONDS
    for step in count():
        if time.monotonic() > end:
            break
        began = time.perf_counter()
        loss = (network(pixels) - pixels).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values = {f"metric_{number}": loss.item() for number in range(METRICS_A_STEP)}
        called = time.perf_counter()
        tracker.metrics(values, step)
        ended = time.perf_counter()
        if step >= WARM_UP:
            calls.append(ended - called)
            steps.append(ended - began)
    tracker.finish("FINISHED")
    return TrackerCost(tuple(calls), tuple(steps))


@contextmanager
def slow_server(folder: Path, answer_s: float) -> Iterator[str]:
    """Return a context with the URI of a server that passes requests to an MLflow server, and answers late."""
    port = _free_port()
    words = ["server", "--port", str(port), "--workers", "1", "--artifacts-destination", str(folder / "artifacts")]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words, "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"],
        cwd=folder,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(f"http://127.0.0.1:{port}", answer_s))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        _wait_for(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        os.killpg(server.pid, 9)
        server.wait()


def _handler(target: str, answer_s: float) -> type[BaseHTTPRequestHandler]:
    class Late(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
            headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
            request = urllib.request.Request(f"{target}{self.path}", body, headers, method=self.command)
            time.sleep(answer_s)
            try:
                with urllib.request.urlopen(request) as answer:
                    status, content = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, content = error.code, error.read()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PATCH = do_GET  # noqa: N815 (names of http.server)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Late


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(address: str) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            if time.monotonic() > end:
                raise TimeoutError(f"the MLflow server did not start within {START_S:g} s") from None
            time.sleep(0.3)


def _print(name: str, cost: TrackerCost) -> None:
    print(f"  {name:<22} {cost}")
