"""Storage strategies, one per kind of image: pixels in the store, or tiles of whole slides.

The contract. A `Way` declares which kinds of image it accepts, stores them, makes the rows of the stored ones, and
removes arrays without a row from the finished dataset. A new kind of image is a new strategy and its entry in
`storage.py`; the recipe names no kind. Stored images are never stored twice: a resumed run, or an update of an earlier
dataset, reuses them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medvit.engine import EngineConfig
from medvit.ingest.file_stamps import Stamp
from medvit.ingest.site import Site
from medvit.records import Candidate, Kind, Refusal, Row, Taken

PROGRESS = "taken.jsonl"
"""File of a dataset with a line for each stored image; a slide is recorded in the file of its tiles."""


@dataclass(frozen=True)
class Workplace:
    """Destination and means of storage: the folder of the dataset, the site, the workers.

    `stamps` are those of the source's files; unchanged images are reused from the dataset in the folder `earlier`.
    """

    folder: Path
    site: Site
    engine: EngineConfig
    stamps: Mapping[Path, Stamp] = field(repr=False)
    earlier: Path | None = None


@dataclass(frozen=True)
class Stored:
    """Stored images, by `Candidate.key`, and refusals."""

    taken: dict[str, Taken]
    refusals: tuple[Refusal, ...]

    def and_also(self, other: Stored) -> Stored:
        """Return the union of two results of different candidates."""
        return Stored({**self.taken, **other.taken}, (*self.refusals, *other.refusals))


class Way(Protocol):
    """Storage strategy of some kinds of image."""

    def takes(self, kind: Kind) -> bool:
        """Whether this strategy stores images of a kind; no other does."""

    def store(self, candidates: Sequence[Candidate]) -> Stored:
        """Store candidates; one that fails never stops the others.

        Raises:
            OutputError: If the dataset cannot be written.
        """

    def rows(self, candidates: Sequence[Candidate], rows: Sequence[Row]) -> tuple[Row, ...]:
        """Return the rows of the dataset in place of those of its candidates that were stored.

        Raises:
            MedvitError: If an output cannot be written, or an image cannot be read.
        """

    def remove_unused(self, rows: Sequence[Row]) -> None:
        """Remove this strategy's stored data without a row from the finished dataset."""
