"""The site that a dataset is made at: its key, its pseudonyms, and the private files beside the key."""

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
    """A key file and the name of the dataset made with it: under both, what leads back to patients is kept."""

    key: Path = field(repr=False)
    name: str
    pseudonyms: Pseudonyms = field(repr=False)
    keeps_headers: bool = True

    @classmethod
    def open(cls, key: Path, name: str, *, keep_headers: bool = True) -> Self:
        """Return the site of a key file, which is made on first use.

        Raises:
            ConfigError: If others may read the file, or if it is too short to be a key.
            OutputError: If it cannot be made or read.
        """
        return cls(key, name, Pseudonyms.with_key_file(key, name), keep_headers)

    def check_source(self, source: str, run: Run) -> None:
        """Warn where a resumed run began with another source."""
        if not run.began_with("source", self.pseudonyms.state("source", source)):
            log.warning(
                "the source is another than the unfinished run began with; what is in both is taken from that run"
            )

    def headers(self) -> HeaderCache:
        """Return the headers that an earlier ingest saw; none where it kept none."""
        return HeaderCache(header_cache.lines(self.key, self.name))

    def keep_headers(self, seen: Iterable[tuple[str, ScannedFile]]) -> None:
        """Keep headers for the next ingest, each with the state of its file, or forget them if none is to be kept.

        Raises:
            OutputError: If they cannot be written or removed.
        """
        if self.keeps_headers:
            header_cache.write(self.key, self.name, seen)
        else:
            header_cache.forget(self.key, self.name)

    def keep_way_back(self, pairs: Iterable[tuple[str, str]]) -> Path:
        """Add pairs of a pseudonym and what it stands for to the crosswalk of the dataset; return its path.

        Raises:
            OutputError: If it cannot be written.
        """
        return crosswalk.write(self.key, self.name, pairs)

    def keep_locations(self, places: Mapping[str, SlideFiles]) -> None:
        """Write where slides lie, by their pseudonym.

        Raises:
            OutputError: If it cannot be written.
        """
        if places:
            write_locations(self.key, self.name, places)
