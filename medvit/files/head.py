"""The beginning of a file, read once for all who look at it: most headers end within."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

FIRST_BYTES = 2**15
"""What is read of a file at first: headers of GE take 17 KiB, those of Siemens, with all of its protocol, 120."""


class FileHead(NamedTuple):
    """The first `FIRST_BYTES` of a file, or all of a shorter one, its size in bytes and its time of change in ns."""

    content: bytes
    size: int
    time_ns: int


def read_head(path: Path) -> FileHead:
    """The beginning of a file.

    Raises:
        OSError: If it cannot be opened or read, or is a pipe or device, which might never end.
    """
    with open(path, "rb", buffering=0, opener=_at_once) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        return FileHead(stream.read(FIRST_BYTES), status.st_size, status.st_mtime_ns)


def _at_once(path: str, flags: int) -> int:
    """A file descriptor; opening a named pipe does not wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)
