"""Checks of the folder for outputs, and of the site key with its crosswalk."""

from __future__ import annotations

import shutil
import stat
import tempfile
from pathlib import Path

from medvit.deidentification.crosswalk import folder_of
from medvit.deidentification.pseudonyms import KEY_BYTES, READABLE_BY_OTHERS
from medvit.doctor import SystemCheck
from medvit.files.atomic import write_text
from medvit.files.lock import LockedError, take

GIB = 2**30
MIN_FREE_GIB = 20.0
"""Free space below which a data set of volumes or its checkpoints may not fit."""


def check_folder(folder: Path) -> SystemCheck:
    """Check that files can be written, replaced and locked in a folder; report its free space."""
    folder = folder.expanduser()
    if not folder.is_dir():
        return SystemCheck("folder", "failed", f"no folder at {folder}", "give folder=PATH of the folder for outputs")
    try:
        with tempfile.TemporaryDirectory(prefix=".medvit-doctor-", dir=folder) as name:
            file = Path(name) / "file"
            write_text(file, "first")
            write_text(file, "second")
            lock = take(Path(name) / "lock", "medvit doctor")
            lock.release(Path(name) / "lock")
            if file.read_text(encoding="utf-8") != "second":
                return SystemCheck(
                    "folder", "failed", "a file was replaced and still has its old content", "use another disk"
                )
            is_open = _is_open(Path(name))
    except (OSError, LockedError) as error:
        reason = getattr(error, "strerror", None) or "its files cannot be locked"
        return SystemCheck(
            "folder", "failed", f"{folder}: {reason}", "give folder=PATH of a folder that you may write to"
        )
    free_gib = shutil.disk_usage(folder).free / GIB
    found = f"{free_gib:.0f} GiB free"
    if is_open:
        advice = "results that name patients would be readable by others; use a disk that supports permissions"
        return SystemCheck("folder", "failed", f"{found}; modes of files are ignored", advice)
    if free_gib < MIN_FREE_GIB:
        return SystemCheck("folder", "warning", found, f"free some space; expected {MIN_FREE_GIB:.0f} GiB or more")
    return SystemCheck("folder", "ok", found)


def check_key(key: Path, backup: Path | None) -> SystemCheck:
    """Check the site key, whether other users can read it or its crosswalk, and whether its backup is the same."""
    key = key.expanduser()
    try:
        if not key.exists():
            return SystemCheck("site key", "ok", "not created yet; the first ingest or predict creates it")
        content = key.read_bytes()
        open_to_others = [path for path in (key, folder_of(key)) if path.exists() and _is_open(path)]
        is_same = backup is not None and backup.expanduser().read_bytes() == content
        is_link = backup is not None and backup.expanduser().samefile(key)
    except OSError as error:
        return SystemCheck(
            "site key", "failed", f"the key or its backup cannot be read: {error.strerror}", "check the paths"
        )
    if len(content) < KEY_BYTES:
        return SystemCheck(
            "site key", "failed", f"{len(content)} bytes; expected {KEY_BYTES}", "restore it from a backup"
        )
    if open_to_others:
        names = " and ".join(path.name for path in open_to_others)
        return SystemCheck(
            "site key", "failed", f"others may read {names}", "run chmod 600 on the key and 700 on the folder"
        )
    if backup is None:
        advice = (
            "without the key, pseudonyms of new images do not match those of earlier ones; copy it to a safe place and "
            "give backup=PATH"
        )
        return SystemCheck("site key", "warning", "private; no backup was given", advice)
    if is_link:
        return SystemCheck(
            "site key", "failed", "the backup is the key itself", "give the path of a copy on another disk"
        )
    if not is_same:
        return SystemCheck(
            "site key", "failed", "the backup differs from the key", "find out which one made the datasets"
        )
    text = "private; its backup is the same" + (", but others may read it" if _is_open(backup.expanduser()) else "")
    return SystemCheck("site key", "ok", text)


def _is_open(path: Path) -> bool:
    """Return whether other users may read or change a file or folder."""
    return bool(stat.S_IMODE(path.stat().st_mode) & READABLE_BY_OTHERS)
