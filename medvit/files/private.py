"""Write files that only their owner may read: what names patients or their files is kept in such files alone."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

OWNER_FOLDER, OWNER_FILE = 0o700, 0o600
"""Modes of such a folder and of a file in it."""
STALE_S = 24 * 3600.0
"""Age of a half-written file from which its process is taken for killed; writing takes seconds."""


def make_private(folder: Path) -> None:
    """Give a folder and all below it modes by which only their owner can read them; links are left alone.

    Raises:
        OSError: If one is somebody else's.
    """
    folder.chmod(OWNER_FOLDER)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(OWNER_FOLDER if path.is_dir() else OWNER_FILE)


def write_private(path: Path, parts: Iterable[bytes]) -> None:
    """Write parts one after the other to a file of mode 0600, whole or not at all; its folder is made with mode 0700.

    Raises:
        OSError: If it cannot be written; an earlier file of that name is left as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(mode=OWNER_FOLDER, parents=True, exist_ok=True)
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_FILE)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
        os.replace(partial, path)
        _sweep(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sweep(path: Path) -> None:
    """Remove what processes that were killed left half written of a file, which may name patients."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with suppress(OSError):
            if re.fullmatch(r"\d+", left.name.rpartition(".")[2]) and time.time() - left.stat().st_mtime > STALE_S:
                left.unlink()
