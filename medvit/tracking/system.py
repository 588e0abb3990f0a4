"""Use of processor, memory, disk, network and GPUs of this machine, recorded while a stage works."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

PREFIX = "system/"
"""Beginning of the names under which the MLflow page shows such metrics on a page of their own."""
INTERVAL_S = 10.0
"""Seconds between two samples, as in MLflow."""


class SystemMonitor:
    """Thread that samples the use of the machine and passes it to `record`, with the number of the sample as step."""

    def __init__(self, record: Callable[[Mapping[str, float], int], None], interval_s: float = INTERVAL_S) -> None:
        self._record, self._interval_s = record, interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop sampling; afterwards, nothing more is recorded."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(self._interval_s)

    def _work(self) -> None:
        if self._ended.wait(self._interval_s):  # short stages do not import the monitors
            return
        monitors = _monitors()
        step = 0
        while True:
            values: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                values |= {f"{PREFIX}{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            if self._ended.is_set():
                return
            self._record(values, step)
            step += 1
            if self._ended.wait(self._interval_s):
                return


def _monitors() -> list[Any]:
    """Return the monitors of MLflow that work on this machine."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        found.append(GPUMonitor())
    except (ImportError, RuntimeError) as error:  # without pynvml, or without a GPU
        logging.getLogger("medvit").debug("GPUs are not monitored: %s", error)
    return found
