"""Write files that only their owner may read: what names patients or their files is kept in such files alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

OWNER_FOLDER, OWNER_FILE = 0o700, 0o600
"""Modes of such a folder and of a file in it."""


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
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
