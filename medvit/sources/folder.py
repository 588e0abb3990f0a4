"""A folder on disk, nested anyhow."""

from __future__ import annotations

import os
from pathlib import Path

from medvit.errors import DataError


def files(source: Path) -> list[Path]:
    """Every file below a folder, sorted by path; or the one file that `source` is.

    Hidden files and folders (a leading dot, `__MACOSX`) are skipped. Links to files are followed, those to folders not.

    Raises:
        DataError: If the source is missing, holds no file, or one of its folders cannot be listed.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"no folder at {source}; give source=PATH of a folder or a file that exists")
    found: list[Path] = []
    for folder, subfolders, names in os.walk(source, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if not _is_hidden(name)]
        found += [Path(folder, name) for name in names if not _is_hidden(name)]
    if not found:
        raise DataError(f"the folder {source} holds no files; give source=PATH of the folder that holds the images")
    return sorted(found)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _refuse(error: OSError) -> None:
    raise DataError(f"a folder of the source cannot be listed: {error.strerror}; check its permissions") from None
