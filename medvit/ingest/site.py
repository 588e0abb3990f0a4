"""Site (hospital or group) that makes a dataset: its key, its pseudonyms, and the private files next to the key."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from medvit.deidentification import crosswalk
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.ingest import header_cache
from medvit.ingest.header_cache import HeaderCache
from medvit.readers import ScannedFile
from medvit.stage import Run
from medvit.wsi.locations import SlideFiles, write_locations

log = logging.getLogger("medvit")


@dataclass(frozen=True)
class Site:
    """Key file of a site, and the name of a dataset; together they locate the crosswalk of the dataset."""

    key: Path = field(repr=False)
    name: str
    pseudonyms: Pseudonyms = field(repr=False)
    keeps_headers: bool = True

    @classmethod
    def open(cls, key: Path, name: str, *, keep_headers: bool = True) -> Self:
        """Return the site of a key file; the key file is created on first use.

        Raises:
            ConfigError: If other users may read the key file, or if it is too short to be a key.
            OutputError: If the key file cannot be created or read.
        """
        return cls(key, name, Pseudonyms.with_key_file(key, name), keep_headers)

    def check_source(self, source: str, run: Run) -> None:
        """Warn if a resumed run began with another source."""
        if not run.began_with("source", self.pseudonyms.state("source", source)):
            log.warning("the source differs from that of the unfinished run; images in both are reused from that run")

    def headers(self) -> HeaderCache:
        """Return the headers cached by an earlier ingest; empty without a cache."""
        return HeaderCache(header_cache.lines(self.key, self.name))

    def keep_headers(self, seen: Iterable[tuple[str, ScannedFile]]) -> None:
        """Cache headers for the next ingest, each with the state of its file.

        If `keeps_headers` is False, remove the cache instead.

        Raises:
            OutputError: If the cache cannot be written or removed.
        """
        if self.keeps_headers:
            header_cache.write(self.key, self.name, seen)
        else:
            header_cache.forget(self.key, self.name)

    def keep_way_back(self, pairs: Iterable[tuple[str, str]]) -> Path:
        """Add (pseudonym, original) pairs to the crosswalk of the dataset; return the path of the crosswalk.

        Raises:
            OutputError: If the crosswalk cannot be written.
        """
        return crosswalk.write(self.key, self.name, pairs)

    def keep_locations(self, places: Mapping[str, SlideFiles]) -> None:
        """Write the locations of slide files, keyed by the pseudonyms of the slides.

        Raises:
            OutputError: If the locations cannot be written.
        """
        if places:
            write_locations(self.key, self.name, places)
