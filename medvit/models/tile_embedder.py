"""Embedding of slide tiles: read in the order of the file, passed through a frozen backbone, stored once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medvit.backbones import Backbone
from medvit.config import Config, Count, Tree
from medvit.dataset.manifest import Manifest
from medvit.engine.outcome import Outcome
from medvit.errors import DataError, MedvitError, OutputError
from medvit.hardware import half_precision
from medvit.models.embedding_store import FOLDER, Embeddings, EmbeddingStore
from medvit.models.features import Features, add_weights, available, pooled
from medvit.progress import Progress
from medvit.records import Row
from medvit.transforms.padding import pad_to_multiple
from medvit.transforms.preprocess import Preprocess
from medvit.types import Image
from medvit.wsi.locations import SlidesConfig, open_row
from medvit.wsi.slide import Slide
from medvit.wsi.tiles import TileGrid

log = logging.getLogger("medvit")

OpenRow = Callable[[Row], Slide]
"""Function that opens the slide of a manifest row. Each process can call it; the slide then remains open there."""


class TileLoaderConfig(Config):
    """Options for reading and embedding slide tiles."""

    batch_size: Count = 64
    """Number of tiles embedded in one batch."""
    num_workers: int = 0
    """Number of processes that read tiles. With 0, the main process reads them."""


class EmbeddingConfig(TileLoaderConfig):
    """Reading and embedding of slide tiles, and storage of the embeddings."""

    embeddings: Path | None = None
    """Folder for tile embeddings, which several runs can share. Unset: inside the dataset folder."""

    def store(self, dataset: Path, embedder: Embedder) -> EmbeddingStore:
        """Return the store for the embeddings of a dataset."""
        return EmbeddingStore(self.embeddings or dataset / FOLDER, embedder.key, embedder.facts)


class Embedder:
    """Frozen backbone with its preprocessing, which maps tiles to embeddings.

    Raises:
        DataError: If the backbone or the preprocessing is not for color images.
    """

    def __init__(
        self, backbone: Backbone, preprocess: Preprocess, features: Features, device: torch.device | str = "cpu"
    ) -> None:
        if preprocess.kind != "image" or backbone.ndim != 2:
            raise DataError(
                "the backbone is for volumes; slides require a 2D backbone, such as one pretrained on tiles"
            )
        self.backbone = backbone.to(device).eval().requires_grad_(False)
        self.preprocess, self.device = preprocess, torch.device(device)
        self.features = available(features, backbone)
        self.width = backbone.width * (2 if self.features == "class_mean" else 1)

    @property
    def key(self) -> str:
        """Hash of everything that an embedding depends on."""
        digest = hashlib.sha256(json.dumps([self.features, self.preprocess.tree()], sort_keys=True).encode())
        add_weights(digest, self.backbone)
        return digest.hexdigest()[:32]

    @property
    def facts(self) -> Tree:
        """Readable description of everything that determines the embeddings: weights, preprocessing and tokens."""
        return {"features": self.features, "width": self.width, "preprocess": self.preprocess.tree()}

    @torch.inference_mode()
    def __call__(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the embeddings of preprocessed tiles, as float32."""
        dtype = half_precision(self.device)
        padded = pad_to_multiple(pixels.to(self.device), self.backbone.patch_size)
        with torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            tokens = self.backbone(padded)
        return pooled(tokens, self.features)


@dataclass(frozen=True)
class TileBatch:
    """Batch of neighboring tiles, preprocessed (B, C, S, S), or the error that prevented reading them."""

    pixels: Tensor | None
    error: MedvitError | None = None


class TileBatches(Dataset[TileBatch]):
    """Tiles of one slide in batches, in the order of its tile grid."""

    def __init__(self, open_slide: Callable[[], Slide], grid: TileGrid, preprocess: Preprocess, size: int) -> None:
        self.open_slide, self.grid, self.preprocess, self.size = open_slide, grid, preprocess, size

    def __len__(self) -> int:
        return -(-len(self.grid) // self.size)

    def __getitem__(self, index: int) -> TileBatch:
        try:
            slide = self.open_slide()
            corners = self.grid.xy[index * self.size : (index + 1) * self.size]
            return TileBatch(torch.stack([self._tile(slide, int(x), int(y)) for x, y in corners]))
        except MedvitError as error:
            return TileBatch(None, error)
        except (OSError, RuntimeError, ValueError) as error:  # the text of a library's error may name a file
            return TileBatch(None, DataError(f"its tiles cannot be read: an unexpected {type(error).__name__}"))

    def _tile(self, slide: Slide, x: int, y: int) -> Tensor:
        pixels = slide.read(x, y, self.grid.size, self.grid.mpp)
        return self.preprocess(Image(pixels, "image", mpp=self.grid.mpp)).pixels


def embed_tiles(
    open_slide: Callable[[], Slide], grid: TileGrid, embedder: Embedder, config: TileLoaderConfig
) -> Iterator[Float[Array, "b d"]]:
    """Yield the embeddings of the tiles of a slide, batch by batch in the order of its grid.

    Raises:
        DataError: If the slide cannot be read.
    """
    batches = TileBatches(open_slide, grid, embedder.preprocess, config.batch_size)
    workers = min(config.num_workers, len(batches)) if len(batches) > 1 else 0
    for batch in DataLoader(batches, batch_size=None, num_workers=workers):
        if batch.error is not None:
            raise batch.error
        yield embedder(batch.pixels).cpu().numpy()


def embed_slides(
    rows: Sequence[Row],
    grids: Sequence[TileGrid],
    open_row: OpenRow,
    *,
    embedder: Embedder,
    store: EmbeddingStore,
    config: TileLoaderConfig,
) -> Iterator[Outcome[Row, Embeddings]]:
    """Yield the embeddings of each slide, in order, with a progress bar over tiles.

    Stored embeddings are reused. A slide that fails does not leave a file, and does not stop the others.

    Raises:
        OutputError: If embeddings cannot be written; the run then stops, because later slides would fail too.
    """
    jobs = [_Job(row, grid, store.get(slide_name(row, grid), len(grid))) for row, grid in zip(rows, grids, strict=True)]
    waiting = [job for job in jobs if job.known is None]
    if len(waiting) < len(jobs):
        log.info("embeddings of %d of %d slides exist already", len(jobs) - len(waiting), len(jobs))
    num_tiles = sum(len(job.grid) for job in waiting)
    with Progress(num_tiles, title="Embedding", unit="tile", is_shown=bool(waiting)) as progress:
        for job in jobs:
            if job.known is not None:
                yield Outcome(job.row, job.known)
                continue
            before = progress.n
            yield _attempt(job, partial(open_row, job.row), embedder, store, config, progress)
            progress.update(before + len(job.grid) - progress.n)


@dataclass(frozen=True)
class EmbeddedSlide:
    """Slide of a manifest with its tiles and their embeddings."""

    row: Row
    grid: TileGrid
    embeddings: Embeddings


def embed_manifest(
    manifest: Manifest,
    slides: SlidesConfig,
    *,
    embedder: Embedder,
    config: EmbeddingConfig,
    failures: list[str],
) -> list[EmbeddedSlide]:
    """Return the slides of a manifest with their embeddings, computing missing ones.

    A line is added to `failures` for each slide that failed.

    Raises:
        DataError: If all slides failed.
        OutputError: If embeddings cannot be written.
    """
    rows, grids = listed_tiles(manifest, slides, failures)
    store = config.store(manifest.folder, embedder)
    opened = partial(open_row, key=slides.key, folder=slides.folder)
    found = []
    outcomes = embed_slides(rows, grids, opened, embedder=embedder, store=store, config=config)
    for outcome, grid in zip(outcomes, grids, strict=True):
        if outcome.result is None:
            failures.append(f"{outcome.item}: {str(outcome.error).removeprefix(f'{outcome.item}: ')}")
        else:
            found.append(EmbeddedSlide(outcome.item, grid, outcome.result))
    if not found:
        raise DataError(f"{manifest.folder}: all {len(manifest)} slides failed, first {failures[0]}")
    return found


def listed_tiles(manifest: Manifest, slides: SlidesConfig, failures: list[str]) -> tuple[list[Row], list[TileGrid]]:
    """Return the slides of a manifest with the tiles to embed.

    A line is added to `failures` for each slide without tiles.
    """
    rows: list[Row] = []
    grids: list[TileGrid] = []
    for row in manifest:
        try:
            grids.append(slides.usable(TileGrid.read(manifest.folder, row.image_id)))
            rows.append(row)
        except DataError as error:
            failures.append(f"{row}: {error}")
    return rows, grids


def slide_name(row: Row, grid: TileGrid) -> str:
    """Return the file name for the embeddings of a slide, which changes when the slide or its tiles change."""
    digest = hashlib.sha256(f"{row.sha256} {grid.size} {grid.mpp:.6g}".encode())
    digest.update(np.ascontiguousarray(grid.xy, "<i8").tobytes())
    return f"{row.image_id}-{digest.hexdigest()[:16]}"


@dataclass(frozen=True)
class _Job:
    row: Row
    grid: TileGrid
    known: Embeddings | None


def _attempt(
    job: _Job,
    open_slide: Callable[[], Slide],
    embedder: Embedder,
    store: EmbeddingStore,
    config: TileLoaderConfig,
    progress: Progress,
) -> Outcome[Row, Embeddings]:
    name, count = slide_name(job.row, job.grid), len(job.grid)
    try:
        if not count:
            raise DataError("slides.skip_tiles excludes every tile of the slide; exclude fewer")
        with store.writing(name, count, embedder.width) as writer:
            for part in _finite(embed_tiles(open_slide, job.grid, embedder, config)):
                writer.append(part)
                progress.update(len(part))
        return Outcome(job.row, store.get(name, count))
    except OutputError:
        raise
    except MedvitError as error:
        return Outcome(job.row, error=error)


def _finite(parts: Iterable[Float[Array, "b d"]]) -> Iterator[Float[Array, "b d"]]:
    highest = float(np.finfo(np.float16).max)
    for part in parts:
        if not np.isfinite(part).all() or np.abs(part).max() > highest:
            raise DataError("the embedding of a tile is not finite in 16 bits; choose another backbone")
        yield part
