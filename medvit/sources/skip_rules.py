"""Which files of a source are passed over, and which are archives that would have to be opened first."""

from __future__ import annotations

from pathlib import PurePosixPath

OPENED = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""Endings of archives that can be a source."""
UNOPENED = (".7z", ".rar", ".tar.zst", ".tzst", ".tar.lz4", ".tar.z", ".iso")
"""Endings of archives that cannot."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no data: its name begins with a dot, or is that of the folder macOS adds."""
    return name.startswith(".") or name == "__MACOSX"


def is_hidden_below(path: PurePosixPath) -> bool:
    """Whether a relative path is hidden or lies in a hidden folder."""
    return any(is_hidden(name) for name in path.parts)


def is_archive(name: str) -> bool:
    """Whether a file is an archive, by its name."""
    return name.lower().endswith((*OPENED, *UNOPENED))
