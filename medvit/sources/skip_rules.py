"""Rules for files of a source: which files are skipped, and which are archives that must be unpacked first."""

from __future__ import annotations

from pathlib import PurePosixPath

OPENED = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""Suffixes of archives that can be a source."""
UNOPENED = (".7z", ".rar", ".tar.zst", ".tzst", ".tar.lz4", ".tar.z", ".iso")
"""Suffixes of archives that cannot be a source."""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden: its name begins with a dot, or is that of a folder that macOS adds."""
    return name.startswith(".") or name == "__MACOSX"


def is_hidden_below(path: PurePosixPath) -> bool:
    """Return whether a relative path is hidden or in a hidden folder."""
    return any(is_hidden(name) for name in path.parts)


def is_archive(name: str) -> bool:
    """Return whether a file is an archive, by its name."""
    return name.lower().endswith((*OPENED, *UNOPENED))
