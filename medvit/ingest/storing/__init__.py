"""Ways to store what was found in a source: one a kind of image, pixels in the store or tiles of whole slides.

The contract. A `Way` says which kinds of image it takes, stores them, makes the rows of what was kept of them, and
removes from the finished dataset what no row has. A new kind of image is a new way and its place in `storage.py`; the
recipe names no kind. What a way stored is done: a run that goes on, or an update of an earlier dataset, takes it from
there.
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
"""File of a dataset with a line for each image that was taken; of a slide, the file of its tiles says it."""


@dataclass(frozen=True)
class Workplace:
    """Where images are stored and by whom: the folder of the dataset, the site, the workers.

    `stamps` are those of the source's files; what has not changed since the dataset in the folder `earlier` was made is
    taken from there.
    """

    folder: Path
    site: Site
    engine: EngineConfig
    stamps: Mapping[Path, Stamp] = field(repr=False)
    earlier: Path | None = None


@dataclass(frozen=True)
class Stored:
    """What was taken, by `Candidate.key`, and what could not be."""

    taken: dict[str, Taken]
    refusals: tuple[Refusal, ...]

    def and_also(self, other: Stored) -> Stored:
        """Return what two steps took, of different candidates."""
        return Stored({**self.taken, **other.taken}, (*self.refusals, *other.refusals))


class Way(Protocol):
    """One way to store images."""

    def takes(self, kind: Kind) -> bool:
        """Whether this way stores images of a kind; no other does."""

    def store(self, candidates: Sequence[Candidate]) -> Stored:
        """Store candidates; one that fails never stops the others.

        Raises:
            OutputError: If the dataset cannot be written.
        """

    def rows(self, candidates: Sequence[Candidate], rows: Sequence[Row]) -> tuple[Row, ...]:
        """Return the rows of the dataset in place of those of its candidates, which were kept.

        Raises:
            MedvitError: If what reading the images takes cannot be written, or an image cannot be read.
        """

    def remove_unused(self, rows: Sequence[Row]) -> None:
        """Remove from the finished dataset what this way stored and none of all rows has."""
