"""Sources of files: folders, archives, DICOMDIR, DICOMweb and PACS.

A kind of source is a module of this package with a constant `SOURCE`. A source *recognizes* (`knows`) a location by its
scheme or name, and *fetches* it: everything that is not a plain file on this machine is put into a spool, a folder that
only its owner can read, and remains there until `Local.discard`. A resumed fetch transfers nothing twice. Some sources
can also be fetched study by study. Locations, paths and identifiers may name patients, so they never appear in logs or
errors.
"""

from __future__ import annotations

import importlib
import pkgutil
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from medvit.errors import ConfigError
from medvit.records import Refusal
from medvit.sources.options import Location, RetrieveConfig, is_url
from medvit.sources.spool import Spool

__all__ = [
    "Local",
    "Location",
    "RetrieveConfig",
    "Source",
    "SourceByStudy",
    "clear",
    "fetch",
    "fetch_studies",
    "sources",
]

SPOOL = ".spool"
"""Folder inside an unfinished output for fetched files."""


@dataclass(frozen=True)
class Local:
    """Files of a source on this machine, sorted; all paths are below `root`.

    `refusals` are the files that could not be fetched, each with the reason.
    """

    root: Path = field(repr=False)
    files: tuple[Path, ...] = field(repr=False)
    refusals: tuple[Refusal, ...] = field(default=(), repr=False)
    spool: Spool | None = field(default=None, repr=False)

    def discard(self) -> None:
        """Remove fetched files unless they are to be kept; files of a folder given as source are never removed."""
        if self.spool is not None:
            self.spool.discard()


@dataclass(frozen=True)
class SourceRequest:
    """Request to a source: its location, the options, and the folder for fetched files.

    Raises:
        ConfigError: If the spool is in the output of the stage, which would then contain files that name patients.
    """

    location: str = field(repr=False)
    options: RetrieveConfig
    work: Path

    def __post_init__(self) -> None:
        if self.options.spool is None:
            return
        spool, partial = self.options.spool.expanduser().resolve(), self.work.resolve()
        final = partial.with_name(partial.name.removesuffix(".partial"))
        if spool.is_relative_to(partial) or spool.is_relative_to(final):
            raise ConfigError(
                "retrieve.spool is inside the output folder, which would then contain original files of patients; "
                "choose a folder outside"
            )

    def spool(self, *facts: object) -> Spool:
        """Return the spool of this location for the present state of its contents.

        `facts`, such as the size of an archive, identify the state. If they change, another spool is used.
        """
        options = self.options
        parent = self.work / SPOOL if options.spool is None else options.spool.expanduser()
        return Spool.open(parent, (self.location, *facts), is_kept=options.keep, max_gib=options.max_gib)


class Source(Protocol):
    """One kind of source."""

    name: str

    def knows(self, location: str) -> bool:
        """Return whether the location is of this kind."""

    def fetch(self, place: SourceRequest) -> Local:
        """Fetch all files of the source.

        Raises:
            SourceError: If the source cannot be reached, refuses access, or lacks files that it lists.
            DataError: If the source is missing or empty.
            ConfigError: If options do not suit the source.
        """


@runtime_checkable
class SourceByStudy(Source, Protocol):
    """Source that can be fetched one study at a time."""

    def studies(self, place: SourceRequest, is_done: Callable[[str], bool]) -> Iterator[Local]:
        """Yield the files study by study; skip studies if `is_done` returns True for their Study Instance UID."""


@cache
def sources() -> tuple[Source, ...]:
    """Return all kinds of source, sorted by name; the folder, which accepts any path, is last."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    found = [module.SOURCE for module in modules if hasattr(module, "SOURCE")]
    return tuple(sorted(found, key=lambda source: (source.name == "folder", source.name)))


def fetch(location: str, options: RetrieveConfig, *, work: Path) -> Local:
    """Fetch the files of a source to this machine, into a spool below `work` unless the options set another folder.

    Raises:
        MedvitError: As in `Source.fetch`.
    """
    return _source(location).fetch(SourceRequest(location, options, work))


def fetch_studies(
    location: str, options: RetrieveConfig, *, work: Path, is_done: Callable[[str], bool]
) -> Iterator[Local]:
    """Yield the files of a source study by study; call `discard` on each when it is processed.

    The files of a server are thus never all on this machine at the same time.

    Raises:
        MedvitError: As in `Source.fetch`.
    """
    source, place = _source(location), SourceRequest(location, options, work)
    if isinstance(source, SourceByStudy):
        yield from source.studies(place, is_done)
    else:
        yield source.fetch(place)


def clear(work: Path) -> None:
    """Remove all files fetched below `work`, including those of runs that never finished.

    Raises:
        OSError: If a file cannot be removed.
    """
    spool = work / SPOOL
    if spool.is_symlink() or spool.is_file():
        spool.unlink()
    elif spool.is_dir():
        shutil.rmtree(spool)


def _source(location: str) -> Source:
    known = next((source for source in sources() if source.knows(location)), None)
    if known is None:
        scheme = location.partition("://")[0]
        raise ConfigError(
            f"{scheme}:// is not a supported kind of source; expected a path, https://HOST/ROOT for DICOMweb, or "
            "pacs://AET@HOST:PORT for DICOM"
        )
    return known


def local_path(location: str) -> Path | None:
    """Return the path of a location, or None for a server."""
    return None if is_url(location) else Path(location)
