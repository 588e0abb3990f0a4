"""Data files that a header names; only files in the folder of the header, or below it, are read.

Otherwise, a header could make medvit read any file.
"""

from __future__ import annotations

from pathlib import Path

from medvit.errors import UnreadableError, UnsupportedError


def named_beside(header: Path, name: str) -> Path:
    """Return the data file that a header names, in the folder of the header or below.

    Raises:
        UnsupportedError: If the data file is outside of that folder, after links are resolved.
        UnreadableError: If the data file does not exist.
    """
    named = header.parent / name
    if not named.resolve().is_relative_to(header.parent.resolve()):
        raise UnsupportedError(
            "the header names a data file outside its own folder; expected both in the same folder: move them together"
        )
    if not named.is_file():
        raise UnreadableError("the header names a data file that does not exist; copy it into the folder of the header")
    return named
