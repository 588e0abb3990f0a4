"""Worker of a batch: a process that takes studies, and the signs by which other processes see that it has ended.

Times are read from the monotonic clock. It is the same for all processes of a host, does not jump when the time of day
is changed, and stops while the computer sleeps. It starts again when the computer starts, so a worker also has the
identifier of that start.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Worker:
    """Process that works on a batch."""

    token: str
    """Random identifier."""
    name: str
    """Name for people: the number of the process, and its host."""
    boot: str
    """Identifier of the start of the host; empty if the system has none."""
    namespace: str
    """Namespace in which `pid` is valid: processes of two containers may have the same number."""
    pid: int
    started: str
    """Time at which the process started, in ticks since the start of the host; empty if it is unknown."""

    @classmethod
    def current(cls) -> Worker:
        """Return a new worker for this process."""
        pid = os.getpid()
        name = f"process {pid} on {socket.gethostname()}"
        return cls(uuid.uuid4().hex, name, _boot(), _namespace(), pid, _started(pid))

    def has_lost(self, beat: float, lease_s: float) -> bool:
        """Return whether the worker has lost its studies.

        It has lost them if its process has ended, or if its last sign of life, at `beat` on the monotonic clock, is
        older than `lease_s`.
        """
        now = time.monotonic()
        return beat > now or now - beat > lease_s or self.has_ended()

    def has_ended(self) -> bool:
        """Return whether the process is known to have ended; a process of another container cannot be seen."""
        if self.boot != _boot():
            return True
        is_seen = self.namespace == _namespace() != "" and self.started != ""
        return is_seen and _started(self.pid) != self.started


def _boot() -> str:
    return _text(Path("/proc/sys/kernel/random/boot_id"))


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return the start time of a process (field 22 of proc_pid_stat(5)); empty if it has ended, or is a zombie."""
    state, *fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split() or [""]
    return fields[18] if state not in ("", "Z", "X") else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
