"""A folder on disk, nested anyhow, or one file."""

from __future__ import annotations

import os
from pathlib import Path

from medvit.errors import DataError, UnsupportedError
from medvit.records import Refusal
from medvit.sources import Local, SourceRequest
from medvit.sources.options import is_url
from medvit.sources.skip_rules import is_archive, is_hidden


class Folder:
    """A folder, nested anyhow, or a single file that is no archive."""

    name = "folder"

    def knows(self, location: str) -> bool:
        """Whether the location is a path."""
        return not is_url(location)

    def fetch(self, place: SourceRequest) -> Local:
        """The files where they lie.

        Raises:
            DataError: If the source is missing, holds no file, or one of its folders cannot be listed.
        """
        return local(Path(place.location))


def local(source: Path) -> Local:
    """The files below a folder, archives among them refused; or the one file that `source` is."""
    root = source.parent if source.is_file() else source
    found = files(source)
    kept: list[Path] = []
    nested: list[Path] = []
    for file in found:
        (nested if is_archive(file.name) else kept).append(file)
    reason = "an archive inside of the source is not opened; unpack it, or give it as a source of its own"
    return Local(root, tuple(kept), tuple(Refusal((file,), UnsupportedError.code, reason) for file in nested))


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
        subfolders[:] = [name for name in subfolders if not is_hidden(name)]
        path = Path(folder)
        found += [path / name for name in names if not is_hidden(name)]
    if not found:
        raise DataError(f"the folder {source} holds no files; give source=PATH of the folder that holds the images")
    return sorted(found, key=lambda file: file.parts)  # the order of paths, which compare themselves slowly


def _refuse(error: OSError) -> None:
    raise DataError(f"a folder of the source cannot be listed: {error.strerror}; check its permissions") from None


SOURCE = Folder()
