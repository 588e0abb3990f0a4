"""Files that only their owner may read: everything that names patients or their files is stored in such files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from medvit.files.atomic import sweep_stale

OWNER_FOLDER, OWNER_FILE = 0o700, 0o600
"""Modes of a private folder and of its files."""


def make_private(folder: Path) -> None:
    """Make a folder and its contents readable by the owner only; links are not changed.

    Raises:
        OSError: If a file belongs to another user.
    """
    folder.chmod(OWNER_FOLDER)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(OWNER_FOLDER if path.is_dir() else OWNER_FILE)


def write_private(path: Path, parts: Iterable[bytes]) -> None:
    """Write parts in order to a file of mode 0600, atomically; its folder is created with mode 0700.

    Raises:
        OSError: If the file cannot be written; an earlier file of that name is unchanged.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(mode=OWNER_FOLDER, parents=True, exist_ok=True)
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_FILE)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
        os.replace(partial, path)
        sweep_stale(path.parent, re.compile(rf"\.{re.escape(path.name)}\.\d+"))
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
