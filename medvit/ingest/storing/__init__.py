"""Storage strategies, one per kind of image: pixels in the store, or tile lists of whole slides.

A `Way` declares the kinds of image it accepts, stores them, makes the rows of the stored images, and removes
unreferenced arrays from the finished dataset. To support a new kind of image, add a strategy and an entry in
`storage.py`; the code of the stage does not depend on the kind. No image is stored twice: a resumed run, or an update
of an earlier dataset, reuses stored images.
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
    """Context in which images are stored: the folder of the dataset, the site, and the workers.

    `stamps` are the states of the source files. Unchanged images are reused from the dataset in the folder `earlier`.
    """

    folder: Path
    site: Site
    engine: EngineConfig
    stamps: Mapping[Path, Stamp] = field(repr=False)
    earlier: Path | None = None


@dataclass(frozen=True)
class Stored:
    """Stored images, keyed by `Candidate.key`, and refusals of images that could not be stored."""

    taken: dict[str, Taken]
    refusals: tuple[Refusal, ...]

    def and_also(self, other: Stored) -> Stored:
        """Return the combined results of two disjoint sets of candidates."""
        return Stored({**self.taken, **other.taken}, (*self.refusals, *other.refusals))


class Way(Protocol):
    """Storage strategy for some kinds of image."""

    def takes(self, kind: Kind) -> bool:
        """Return whether this strategy stores images of a kind; each kind has exactly one strategy."""

    def store(self, candidates: Sequence[Candidate]) -> Stored:
        """Store candidates; a failing candidate never stops the others.

        Raises:
            OutputError: If the dataset cannot be written.
        """

    def rows(self, candidates: Sequence[Candidate], rows: Sequence[Row]) -> tuple[Row, ...]:
        """Return the final rows of the dataset for these rows of stored candidates, such as rows of tiles for a slide.

        Raises:
            MedvitError: If an output cannot be written, or an image cannot be read.
        """

    def remove_unused(self, rows: Sequence[Row]) -> None:
        """Remove from the finished dataset all data of this strategy to which no row refers."""
