"""Work for a cluster, in a module of its own: each worker imports where its work is from."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from pathlib import Path


def pid_while_waiting(folder: Path) -> int:
    """Leaves its process number, and waits to be killed the first time."""
    if not (folder / "pid").exists():
        (folder / ".pid").write_text(str(os.getpid()))
        (folder / ".pid").rename(folder / "pid")
        time.sleep(60)
    return os.getpid()


def kill_itself(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def of_unportable(number: int) -> object:
    return threading.Lock() if number == 2 else number


def hang(seconds: float) -> float:
    """Sleeps without giving up the interpreter's lock, as a decoder in C may."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return seconds
