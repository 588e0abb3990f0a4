"""Sources of files: folders, archives, DICOMDIR, DICOMweb and PACS.

The contract. A module of this room with a `SOURCE` is a kind of source. It *knows* a location by its scheme or name,
and *fetches* it: what is not a plain file on this machine is put into a spool, a folder that only its owner can read,
and stays there until `Local.discard`. A fetch that goes on takes nothing twice. A source *by study* can also be fetched
one study at a time. Locations, paths and identifiers name patients: no log and no error tells them.
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
"""Folder inside an unfinished output that holds what was fetched."""


@dataclass(frozen=True)
class Local:
    """Files of a source on this machine, sorted; `refusals` are those that could not be had, and why.

    All paths lie below `root`.
    """

    root: Path = field(repr=False)
    files: tuple[Path, ...] = field(repr=False)
    refusals: tuple[Refusal, ...] = field(default=(), repr=False)
    spool: Spool | None = field(default=None, repr=False)

    def discard(self) -> None:
        """Removes what was fetched, unless it is to be kept; files of a folder are never touched."""
        if self.spool is not None:
            self.spool.discard()


@dataclass(frozen=True)
class SourceRequest:
    """What a source is asked for: where, how, and where to put it.

    Raises:
        ConfigError: If the spool lies in the output of the stage, which would hold files that name patients.
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
                "retrieve.spool lies in the output, which would keep files of patients; give a place elsewhere"
            )

    def spool(self, *facts: object) -> Spool:
        """The spool of this location in its present state, as `facts` tell it (such as a file's size)."""
        options = self.options
        parent = self.work / SPOOL if options.spool is None else options.spool.expanduser()
        return Spool.open(parent, (self.location, *facts), is_kept=options.keep, max_gib=options.max_gib)


class Source(Protocol):
    """One kind of source."""

    name: str

    def knows(self, location: str) -> bool:
        """Whether the location is of this kind."""

    def fetch(self, place: SourceRequest) -> Local:
        """All its files.

        Raises:
            SourceError: If the source cannot be reached, refuses, or does not hold what it says.
            DataError: If it is missing or holds nothing.
            ConfigError: If options do not fit it.
        """


@runtime_checkable
class SourceByStudy(Source, Protocol):
    """A source that can be fetched one study at a time."""

    def studies(self, place: SourceRequest, is_done: Callable[[str], bool]) -> Iterator[Local]:
        """The files of one study after the other, but for those of which `is_done` says so by Study Instance UID."""


@cache
def sources() -> tuple[Source, ...]:
    """Every kind of source, by name; the folder, which takes any path, comes last."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    found = [module.SOURCE for module in modules if hasattr(module, "SOURCE")]
    return tuple(sorted(found, key=lambda source: (source.name == "folder", source.name)))


def fetch(location: str, options: RetrieveConfig, *, work: Path) -> Local:
    """The files of a source on this machine; what must be fetched is spooled below `work` unless options say where.

    Raises:
        MedvitError: One of its kinds, as `Source.fetch` says.
    """
    return _source(location).fetch(SourceRequest(location, options, work))


def fetch_studies(
    location: str, options: RetrieveConfig, *, work: Path, is_done: Callable[[str], bool]
) -> Iterator[Local]:
    """The files of a source in turn, so that a server's are never all on this machine; `discard` each when done.

    Raises:
        MedvitError: One of its kinds, as `Source.fetch` says.
    """
    source, place = _source(location), SourceRequest(location, options, work)
    if isinstance(source, SourceByStudy):
        yield from source.studies(place, is_done)
    else:
        yield source.fetch(place)


def clear(work: Path) -> None:
    """Removes all that was fetched below `work`, also by runs that never came to an end.

    Raises:
        OSError: If it cannot be removed.
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
            f"no source is reached by {scheme}://; expected a path, https://HOST/ROOT for DICOMweb, or "
            "pacs://AET@HOST:PORT for DICOM"
        )
    return known


def local_path(location: str) -> Path | None:
    """The path that a location is, or none where it is a server's."""
    return None if is_url(location) else Path(location)
