"""Data files that a header names: they must be in the folder of the header, or a file could pull in any other."""

from __future__ import annotations

from pathlib import Path

from medvit.errors import UnreadableError, UnsupportedError


def named_beside(header: Path, name: str) -> Path:
    """The data file that a header names, in the folder of the header or below.

    Raises:
        UnsupportedError: If it is elsewhere, after links are resolved.
        UnreadableError: If it is not there.
    """
    named = header.parent / name
    if not named.resolve().is_relative_to(header.parent.resolve()):
        raise UnsupportedError(
            "the header names a data file outside its own folder; expected one beside it: move the two together"
        )
    if not named.is_file():
        raise UnreadableError("the header names a data file that is not there; copy it beside the header")
    return named
