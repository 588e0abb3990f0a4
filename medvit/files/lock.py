"""File locks between processes, which the system releases when a process ends for any reason."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

LOCK = ".lock"
"""Name of the file that locks the folder it is in."""
RETRY_S = 0.05
"""Time between two attempts while waiting for a lock."""
_TAKEN = (errno.EACCES, errno.EAGAIN)
_GUARD = threading.Lock()
_held: dict[tuple[int, int], str] = {}
"""Locks of this process, keyed by device and inode of the file. They are recorded because the locks of the system
exclude only other processes.
"""


class LockedError(Exception):
    """Error raised if another process has the lock; the message names the process."""


@dataclass(frozen=True)
class FileLock:
    """Lock that lasts until it is released, or until the process ends.

    `flock` is not used, because forked children, such as the workers of a loader, would keep the lock after their
    parent was killed. The process must not open and close the lock file again, which would release the lock.
    """

    descriptor: int
    inode: tuple[int, int]

    def release(self, *paths: Path) -> None:
        """Release the lock and remove its file.

        `paths` are the possible paths of the lock file: its folder may have been renamed.
        """
        with _GUARD:
            for path in paths:
                if _inode(path) == self.inode:
                    path.unlink()  # before release: waiting processes see that the file was replaced
            _held.pop(self.inode, None)
            os.close(self.descriptor)


def take(path: Path, purpose: str) -> FileLock:
    """Acquire the lock of a file, creating the file.

    On file systems without locks, other processes are not excluded.

    Raises:
        LockedError: If another process has the lock.
        OSError: If the file cannot be made.
    """
    while True:
        with _GUARD:
            found = _inode(path)
            if found in _held:
                raise LockedError(_held[found])
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _TAKEN:
                    holder = os.read(descriptor, 1000).decode(errors="replace") or "another process"
                    os.close(descriptor)
                    raise LockedError(holder) from None
            status = os.fstat(descriptor)
            inode = (status.st_dev, status.st_ino)
            if _inode(path) != inode:  # its holder removed or moved the file meanwhile
                os.close(descriptor)
                continue
            holder = f"{purpose} of process {os.getpid()} on {socket.gethostname()}"
            os.ftruncate(descriptor, 0)
            os.write(descriptor, holder.encode())
            _held[inode] = holder
            return FileLock(descriptor, inode)


def wait_for(path: Path, purpose: str, *, timeout_s: float) -> FileLock:
    """Acquire the lock of a file, waiting for its release for at most `timeout_s`.

    Raises:
        LockedError: If another process still has the lock after that time.
        OSError: If the file cannot be made.
    """
    end = time.monotonic() + timeout_s
    while True:
        try:
            return take(path, purpose)
        except LockedError:
            if time.monotonic() > end:
                raise
            time.sleep(RETRY_S)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
