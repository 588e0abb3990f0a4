"""First bytes of a file, read once for all readers, since most headers end within them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

FIRST_BYTES = 2**15
"""Bytes read first: GE headers take 17 KiB, Siemens headers with the full protocol 120 KiB."""


class FileHead(NamedTuple):
    """First `FIRST_BYTES` of a file (all of a shorter one), its size in bytes and its modification time in ns."""

    content: bytes
    size: int
    time_ns: int


def read_head(path: Path) -> FileHead:
    """Read the beginning of a file.

    Raises:
        OSError: If the file cannot be opened or read, or is a pipe or device, which might never end.
    """
    with open(path, "rb", buffering=0, opener=_at_once) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        return FileHead(stream.read(FIRST_BYTES), status.st_size, status.st_mtime_ns)


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting, and return its descriptor. A usual open of a named pipe would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)
