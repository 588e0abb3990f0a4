"""Copies of slide tiles in the store, each as a separate image, for a self-contained dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from medvit.dataset.store import Store
from medvit.engine import EngineConfig, map_items
from medvit.ingest.quality_flags import flags
from medvit.leakage.perceptual_hash import hash_image
from medvit.records import Row, TileRow
from medvit.types import Image
from medvit.wsi.locations import open_row, tile_row
from medvit.wsi.slide import Slide
from medvit.wsi.tiles import TILE_FLAGS, TileGrid


@dataclass(frozen=True)
class PackSlide:
    """Function object that stores the listed tiles of a slide in a dataset folder.

    The slide files are located next to the key file.
    """

    folder: Path
    key: Path

    def __call__(self, row: Row) -> list[Row]:
        """Return a row of kind image for each tile of a slide.

        Raises:
            DataError: If the slide cannot be read.
            OutputError: If the store cannot be written.
        """
        grid = TileGrid.read(self.folder, row.image_id)
        store, slide = Store(self.folder / "images"), open_row(row, self.key)
        return [_packed(slide, tile_row(row, grid, index), int(grid.flags[index]), store) for index in range(len(grid))]


def pack(rows: Sequence[Row], *, folder: Path, key: Path, engine: EngineConfig) -> tuple[Row, ...]:
    """Return rows in which the rows of slides are replaced by rows of their tiles.

    Raises:
        DataError: If a slide can no longer be read.
        OutputError: If the store cannot be written.
    """
    made: list[Row] = []
    for outcome in map_items(PackSlide(folder, key), rows, config=engine, title="pack", unit="slide"):
        if outcome.error is not None:
            raise outcome.error
        made += outcome.result or []
    return tuple(made)


def _packed(slide: Slide, tile: TileRow, bits: int, store: Store) -> Row:
    assert tile.mpp is not None
    pixels = slide.read(tile.x, tile.y, tile.shape[1], tile.mpp)
    known: dict[str, Any] = {one.name: getattr(tile, one.name) for one in fields(Row)}
    words = [tile.part, *(name for name, bit in TILE_FLAGS.items() if bits & bit)]
    image = Image(pixels, "image", tile.modality, mpp=tile.mpp)
    return replace(
        Row(**known),
        sha256=store.put(pixels),
        part=", ".join(words),
        flags=flags(image),
        perceptual_hash=hash_image(pixels),
    )
