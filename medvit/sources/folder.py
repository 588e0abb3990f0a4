"""Folder on disk, nested to any depth, or one file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from medvit.errors import DataError, UnsupportedError
from medvit.records import Refusal
from medvit.sources import Local, SourceRequest
from medvit.sources.options import is_url
from medvit.sources.skip_rules import is_archive, is_hidden


class Folder:
    """Folder, nested to any depth, or a single file that is not an archive."""

    name = "folder"

    def knows(self, location: str) -> bool:
        """Return whether the location is a path."""
        return not is_url(location)

    def fetch(self, place: SourceRequest) -> Local:
        """Return the files of the source, without copying them.

        Raises:
            DataError: If the source is missing, contains no file, or has a folder that cannot be listed.
        """
        return local(Path(place.location))


def local(source: Path) -> Local:
    """Return the files of a source except archives, with a refusal for each archive.

    If `source` is a folder, these are the files below it; if it is a file, this file alone.
    """
    root = source.parent if source.is_file() else source
    found, refusals = _listed(source)
    kept: list[Path] = []
    for file in found:
        if is_archive(file.name):
            reason = "an archive inside the source is not opened; unpack it, or give it as a source of its own"
            refusals.append(Refusal((file,), UnsupportedError.code, reason))
        else:
            kept.append(file)
    return Local(root, tuple(kept), tuple(refusals))


def files(source: Path) -> list[Path]:
    """Return all regular files below a folder, sorted by path; if `source` is a file, return only this file.

    Hidden files and folders (a leading dot, `__MACOSX`) are skipped. Links to files are followed, links to folders are
    not.

    Raises:
        DataError: If the source is missing or empty, or has a folder that cannot be listed.
    """
    return _listed(source)[0]


def _listed(source: Path) -> tuple[list[Path], list[Refusal]]:
    """Return the regular files below a folder, sorted, and a refusal for each entry of another kind."""
    if source.is_file():
        return [source], []
    if source.exists() and not source.is_dir():
        raise DataError(f"the source {source} is {_kind(source)}; give source=PATH of a folder or a regular file")
    if not source.is_dir():
        raise DataError(f"no folder at {source}; give source=PATH of a folder or a file that exists")
    found: list[Path] = []
    refusals: list[Refusal] = []
    waiting = [source]
    while waiting:
        folder = waiting.pop()
        for entry in _entries(folder):
            path = folder / entry.name
            if is_hidden(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif _is_regular(entry):
                found.append(path)
            else:
                refusals.append(Refusal((path,), UnsupportedError.code, _reason(path)))
    if not found and not refusals:
        raise DataError(
            f"the folder {source} contains no files; give source=PATH of the folder that contains the images"
        )
    refusals.sort(key=lambda refusal: refusal.files[0].parts)
    return sorted(found, key=lambda file: file.parts), refusals  # the order of `Path`, whose comparisons are slow


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"a folder of the source cannot be listed: {error.strerror}; check its permissions") from None


def _is_regular(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # circular links
        return False


def _reason(path: Path) -> str:
    if path.is_symlink() and path.is_dir():
        return "a link to a folder, which is not followed; copy the folder here, or give it as a source of its own"
    if path.is_symlink() and not path.exists():
        return "a broken link; restore the file it names, or remove the link"
    return f"{_kind(path)}; expected a regular file: remove it from the source"


def _kind(path: Path) -> str:
    """Return a description of a path other than a file or a folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "a path that cannot be accessed"
    kinds = {stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "a device")


SOURCE = Folder()
