"""Resource estimate of training on slides; the embedding of a few tiles is timed and extrapolated to all tiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.models.embedding_store import DTYPE, Embeddings
from medvit.models.tile_embedder import EmbeddedSlide, Embedder, EmbeddingConfig, TileBatches, listed_tiles, slide_name
from medvit.records import Row
from medvit.training.planning.profiling import synchronize
from medvit.wsi.locations import SlidesConfig, open_row
from medvit.wsi.tiles import TileGrid

TIMED_BATCHES = 3
"""Number of batches of tiles that are timed, after one warm-up batch."""


@dataclass(frozen=True)
class PlannedSlides:
    """Training slides, and the cost of computing their missing embeddings.

    `num_waiting` is the number of tiles still to embed. Reading and embedding one tile takes `read_s` and `embed_s`
    seconds; both are NaN if no tile is missing.
    """

    slides: Sequence[EmbeddedSlide]
    num_waiting: int
    read_s: float
    embed_s: float

    @property
    def num_tiles(self) -> int:
        """Number of tiles of all slides."""
        return sum(len(slide.grid) for slide in self.slides)

    @property
    def most_tiles(self) -> int:
        """Number of tiles of the largest slide."""
        return max(len(slide.grid) for slide in self.slides)

    @property
    def waiting_bytes(self) -> int:
        """Disk space that the missing embeddings will take, in bytes."""
        return self.num_waiting * self.slides[0].embeddings.width * DTYPE.itemsize

    def tile_s(self, num_workers: int) -> float:
        """Seconds per tile if `num_workers` processes read tiles while the main process embeds them."""
        return max(self.read_s / num_workers, self.embed_s) if num_workers else self.read_s + self.embed_s


def plan_slides(
    manifest: Manifest,
    slides: SlidesConfig,
    *,
    embedder: Embedder,
    config: EmbeddingConfig,
    work: Path,
    failures: list[str],
) -> PlannedSlides:
    """Return the training slides and the time per tile, measured on a few tiles.

    Missing embeddings are not computed: a sparse file in the folder `work`, which reads as zeros, replaces them. A line
    is added to `failures` for each slide without tiles.

    Raises:
        DataError: If no slide has tiles, or if embeddings are missing and none of their slides can be read.
    """
    rows, grids = listed_tiles(manifest, slides, failures)
    both = [(row, grid) for row, grid in zip(rows, grids, strict=True) if len(grid)]
    if not both:
        raise DataError(f"{manifest.folder}: no training slide has tiles; change slides.skip_tiles")
    store = config.store(manifest.folder, embedder)
    holes = work / "holes"
    with holes.open("wb") as file:
        file.truncate(max(len(grid) for _, grid in both) * embedder.width * DTYPE.itemsize)
    known = [store.get(slide_name(row, grid), len(grid)) for row, grid in both]
    waiting = [pair for pair, there in zip(both, known, strict=True) if there is None]
    found = [
        EmbeddedSlide(row, grid, there or Embeddings(holes, len(grid), embedder.width, 0))
        for (row, grid), there in zip(both, known, strict=True)
    ]
    read_s, embed_s = _timed(waiting, slides, embedder, config.batch_size) if waiting else (float("nan"),) * 2
    return PlannedSlides(found, sum(len(grid) for _, grid in waiting), read_s, embed_s)


def _timed(
    waiting: Sequence[tuple[Row, TileGrid]], slides: SlidesConfig, embedder: Embedder, batch_size: int
) -> tuple[float, float]:
    """Return the seconds for reading and for embedding one tile.

    Both are measured on one of the `waiting` slides: the largest that can be read.
    """
    errors = []
    for row, grid in sorted(waiting, key=lambda pair: -len(pair[1])):
        opened = partial(open_row, row, key=slides.key, folder=slides.folder)
        batches = TileBatches(opened, grid, embedder.preprocess, batch_size)
        reading, embedding = [], []
        for index in range(min(len(batches), 1 + TIMED_BATCHES)):
            start = time.perf_counter()
            batch = batches[index]
            if batch.pixels is None:
                errors.append(str(batch.error))
                break
            middle = time.perf_counter()
            embedder(batch.pixels)
            synchronize()
            reading.append((middle - start) / len(batch.pixels))
            embedding.append((time.perf_counter() - middle) / len(batch.pixels))
        else:
            timed = slice(1 if len(reading) > 1 else 0, None)
            return statistics.median(reading[timed]), statistics.median(embedding[timed])
    raise DataError(f"none of {len(waiting)} slides can be read, first: {errors[0]}")
