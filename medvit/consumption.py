"""Time and energy that a computation takes, and the hardware it runs on.

Energy is read from counters of the hardware and never estimated. If there is no counter, or if it cannot be read, the
energy is None, with the reason.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
"""Folder of the energy counters of processors (RAPL), with the same names on Intel and AMD processors."""
INTERVAL_S = 30.0
"""Time between two readings. A counter starts again from 0 after about 260 kJ, at 300 W after 15 minutes."""


@dataclass(frozen=True)
class Energy:
    """Energy in joules; None if it was not measured, for the given reason."""

    joules: float | None
    reason: str = ""


@dataclass(frozen=True)
class Consumption:
    """Wall time, hardware and energy of a computation."""

    seconds: float
    processor: str
    gpus: Sequence[str]
    processor_energy: Energy
    gpu_energy: Energy


@dataclass(frozen=True)
class _Counter:
    """Counter of energy: a function that reads it, and the range after which it starts again from 0, in joules."""

    read: Callable[[], float]
    range_j: float | None = None


@dataclass
class _Sum:
    """Sum of the increases of several counters since the first reading."""

    counters: Sequence[_Counter]
    total: float = 0.0
    _before: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._before = [counter.read() for counter in self.counters]

    def update(self) -> None:
        """Add the increases since the last reading, which must be at most one range."""
        now = [counter.read() for counter in self.counters]
        for counter, before, after in zip(self.counters, self._before, now, strict=True):
            self.total += after - before if after >= before else after - before + (counter.range_j or 0.0)
        self._before = now


class ConsumptionMeter:
    """Meter of wall time and energy from its creation on. It reads the counters in a thread until it is stopped."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._began = time.monotonic()
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._sums: dict[str, _Sum] = {}
        self._reasons: dict[str, str] = {}
        self._open("processor", lambda: _processor_counters(powercap))
        self._open("gpu", _gpu_counters)
        if self._sums:
            threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> Consumption:
        """Stop reading; return the time and energy since the meter was made."""
        self._stopped.set()
        self._update()
        seconds, energies = time.monotonic() - self._began, (self._energy("processor"), self._energy("gpu"))
        return Consumption(seconds, processor_name(), _gpu_names(), *energies)

    def _open(self, name: str, counters: Callable[[], Sequence[_Counter]]) -> None:
        try:
            self._sums[name] = _Sum(counters())
        except LookupError as error:
            self._reasons[name] = str(error)
        except (OSError, ValueError):
            self._reasons[name] = "the counters cannot be read, for example for lack of permission"

    def _watch(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            self._update()

    def _update(self) -> None:
        with self._lock:
            for name, found in list(self._sums.items()):
                try:
                    found.update()
                except (OSError, ValueError):
                    del self._sums[name]
                    self._reasons[name] = "the counters could not be read throughout"

    def _energy(self, name: str) -> Energy:
        return Energy(self._sums[name].total) if name in self._sums else Energy(None, self._reasons[name])


def processor_name() -> str:
    """Return the model of the processor and the number of cores that this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{next(named, platform.processor() or platform.machine())}, {cores} core{'' if cores == 1 else 's'}"


def _processor_counters(folder: Path) -> list[_Counter]:
    packages = []
    for zone in sorted(folder.glob("intel-rapl:*")):
        if (zone / "name").is_file() and (zone / "name").read_text(encoding="utf-8").startswith("package"):
            range_j = int((zone / "max_energy_range_uj").read_text(encoding="utf-8")) / 1e6
            packages.append(_Counter(partial(_joules, zone / "energy_uj"), range_j))
    if not packages:
        raise LookupError("this machine has no energy counters of its processor (RAPL)")
    return packages


def _joules(path: Path) -> float:
    return int(path.read_text(encoding="utf-8")) / 1e6


def _gpu_counters() -> list[_Counter]:
    if not _gpu_names():
        raise LookupError("there is no GPU")
    try:
        import pynvml
    except ImportError:
        raise LookupError("the package nvidia-ml-py is not installed") from None
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in _gpu_uuids()]
    except pynvml.NVMLError as error:
        raise LookupError(f"NVML cannot be used ({error})") from None

    def joules(handle: object) -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from None

    return [_Counter(partial(joules, handle)) for handle in handles]


def _gpu_names() -> list[str]:
    import torch

    return (
        [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )


def _gpu_uuids() -> list[str]:
    import torch

    return [f"GPU-{torch.cuda.get_device_properties(n).uuid}" for n in range(torch.cuda.device_count())]
