"""All storage strategies; each strategy stores the candidates of the kinds that it accepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import Field

from medvit.config import Config
from medvit.deidentification.burned_in import BurnedInConfig
from medvit.ingest.scan import ScanningConfig
from medvit.ingest.storing import Stored, Way, Workplace
from medvit.ingest.storing.images import Pixels, ReadAndStore
from medvit.ingest.storing.masks import Masks
from medvit.ingest.storing.slides import Tiles
from medvit.readers.options import ValuesConfig
from medvit.records import Candidate, Row
from medvit.wsi.tiling import TilesConfig


class TakingConfig(Config):
    """Conversion of pixel values, handling of burned-in text, and tiling of slides."""

    values: ValuesConfig = Field(default_factory=ValuesConfig)
    burned_in: BurnedInConfig = Field(default_factory=BurnedInConfig)
    tiles: TilesConfig = Field(default_factory=TilesConfig)


@dataclass(frozen=True)
class Storage:
    """All storage strategies; each kind of image is stored by one of them."""

    ways: tuple[Way, ...]

    @classmethod
    def of(cls, config: TakingConfig, scanning: ScanningConfig, masks: Masks, place: Workplace) -> Self:
        """Return the storage strategies, one per kind of image, for a dataset with these options and label maps."""
        images, modality, eye = place.folder / "images", scanning.modality, scanning.eye
        read = ReadAndStore(images, modality, masks.meaning, config.values, config.burned_in, eye)
        return cls((Pixels(read, masks.counts, place), Tiles(config.tiles, place)))

    def store(self, candidates: Sequence[Candidate]) -> Stored:
        """Store candidates; one that fails never stops the others.

        Raises:
            OutputError: If the dataset cannot be written.
        """
        stored = Stored({}, ())
        for way in self.ways:
            stored = stored.and_also(way.store(_of(way, candidates)))
        return stored

    def rows(self, candidates: Sequence[Candidate], rows: Sequence[Row]) -> tuple[Row, ...]:
        """Return the rows of the dataset, ordered by `image_id`.

        A strategy may replace rows, for example the row of a slide by the rows of its tiles.

        Raises:
            MedvitError: If an output cannot be written, or an image cannot be read.
        """
        made: list[Row] = []
        for way in self.ways:
            made += way.rows(_of(way, candidates), [row for row in rows if way.takes(row.kind)])
        return tuple(sorted(made, key=lambda row: row.image_id))

    def remove_unused(self, rows: Sequence[Row]) -> None:
        """Remove stored data without a row from the finished dataset."""
        for way in self.ways:
            way.remove_unused(rows)


def _of(way: Way, candidates: Sequence[Candidate]) -> list[Candidate]:
    return [one for one in candidates if way.takes(one.item.kind)]
