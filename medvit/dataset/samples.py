"""Samples for models from the rows of a manifest: load, preprocess once, and cache in memory.

Slides are read tile by tile, and tiles are not cached.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from medvit.dataset.manifest import Manifest
from medvit.dataset.slices import SliceRow, stored_mask, stored_pixels
from medvit.errors import DataError
from medvit.geometry import Affine
from medvit.records import Row, Split, TileRow
from medvit.transforms.preprocess import Preprocess
from medvit.types import Batch, Image, Sample
from medvit.wsi.locations import MixedSlidesConfig, SlidesConfig, magnified, read_tile, tile_row
from medvit.wsi.tiles import MPP, Magnification, TileGrid

log = logging.getLogger("medvit")

CACHE_BYTES = 6 * 2**30
"""Memory limit for preprocessed samples, for all processes of a loader together."""
SCALE_STREAM = 11
"""Salt that makes the draw of a scale independent of other draws with the same seed."""


def load(manifest: Manifest, row: Row, slides: SlidesConfig | None = None) -> Image:
    """Load the image of a row, with its label map if it has one; pixels keep their stored type.

    For a tile, the pixels are read from the file of its slide, which `slides` locates.

    Raises:
        DataError: If the store lacks the pixels, or if the slide cannot be read.
    """
    if isinstance(row, TileRow):
        pixels = read_tile(row, slides or SlidesConfig())
        return Image(pixels, row.kind, row.modality, mpp=row.mpp, row=row)
    store = manifest.store
    return Image(
        pixels=stored_pixels(store, row),
        kind=row.kind,
        modality=row.modality,
        affine=None if row.affine is None else Affine(np.array(row.affine).reshape(4, 4)),
        mpp=row.mpp,
        slope=row.slope,
        intercept=row.intercept,
        unit=row.unit,
        mask=stored_mask(store, row),
        row=row,
        padding=row.padding,
        plane_mm=row.plane_mm if isinstance(row, SliceRow) else None,
        channels=row.channels,
    )


class Samples(Dataset[Sample]):
    """Preprocessed images of a manifest.

    If `encode` is given, it returns the target of a row. If not, the target is the label map. `slides` locates the
    slide files of tiles.

    Raises:
        DataError: If a row has no target.
    """

    def __init__(
        self,
        manifest: Manifest,
        preprocess: Preprocess,
        *,
        encode: Callable[[Row], Tensor] | None = None,
        slides: SlidesConfig | None = None,
    ) -> None:
        self.manifest, self.preprocess, self.slides = manifest, preprocess, slides
        self._cache: dict[int, Sample] = {}
        self._cached_bytes = 0
        self._targets = None if encode is None else [encode(row) for row in manifest]

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> Sample:
        if index in self._cache:
            return self._cache[index]
        row = self.manifest.rows[index]
        image = load(self.manifest, row, self.slides)
        # The first and last slices of a volume may be outside the body, where SPM and FSL write NaN.
        prepared = self.preprocess.prepared(image) if isinstance(row, SliceRow) else self.preprocess(image)
        target = prepared.mask if self._targets is None else self._targets[index]
        annotated = annotated_classes(row, self.manifest.facts.mask_classes) if self._targets is None else None
        sample = Sample(prepared.pixels, row, target, prepared.affine, prepared.spacing, annotated)
        size = sample.pixels.nbytes + (0 if target is None else target.nbytes)
        worker = get_worker_info()  # each process of a loader has its own cache
        if self._cached_bytes + size <= CACHE_BYTES // (worker.num_workers if worker else 1):
            self._cache[index] = sample
            self._cached_bytes += size
        return sample

    def drawn(self, index: int, seed: int) -> Sample:
        """Return a training sample; `seed` determines all random choices."""
        return self[index]

    @property
    def examples(self) -> Manifest:
        """Return rows that cover every image shape among the samples."""
        return self.manifest

    def of(self, manifest: Manifest) -> Samples:
        """Return samples of the rows of another manifest, with the same preprocessing."""
        return Samples(manifest, self.preprocess, slides=self.slides)


class TileSamples(Samples):
    """Preprocessed tiles of all slides of a manifest, slide by slide, read on demand and not cached.

    If `slides` sets sampling probabilities of magnifications, each training tile is drawn at one of these
    magnifications, except those finer than the scan of its slide.

    Raises:
        DataError: If all tiles are skipped, if the tile list of a slide is missing, or if a slide has none of the
            magnifications.
    """

    def __init__(self, manifest: Manifest, preprocess: Preprocess, slides: SlidesConfig) -> None:
        super().__init__(manifest, preprocess, slides=slides)
        self.mixed = slides.magnifications if isinstance(slides, MixedSlidesConfig) else {}
        self.grids = [slides.usable(TileGrid.read(manifest.folder, row.image_id)) for row in manifest]
        self._ends = np.cumsum([len(grid) for grid in self.grids])
        if not self._ends[-1]:
            raise DataError(
                f"{manifest.folder}: slides.skip_tiles excludes every tile of its {len(manifest)} slides; exclude fewer"
            )
        if self.mixed:
            self._require_scales()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        row = self.row(index)
        prepared = self.preprocess(load(self.manifest, row, self.slides))
        return Sample(prepared.pixels, row)

    def drawn(self, index: int, seed: int) -> Sample:
        """Return a tile at a random magnification, around the center of the stored tile.

        The magnification is drawn from those available for the slide, with probabilities in proportion to
        `slides.magnifications`.
        """
        if not self.mixed:
            return self[index]
        there = self._scales(self.row(index))
        shares = np.array([self.mixed[name] for name in there])
        chosen = np.random.default_rng([seed, SCALE_STREAM]).choice(len(there), p=shares / shares.sum())
        row = list(there.values())[chosen]
        return Sample(self.preprocess(load(self.manifest, row, self.slides)).pixels, row)

    def _scales(self, tile: TileRow) -> dict[Magnification, TileRow]:
        found = {name: magnified(tile, MPP[name]) for name in self.mixed}
        return {name: row for name, row in found.items() if row is not None}

    def _require_scales(self) -> None:
        there = [(row.slide, set(self._scales(row))) for row in self.examples if isinstance(row, TileRow)]
        for slide, scales in there:
            if not scales:
                raise DataError(
                    f"{slide} was scanned at too low a resolution for slides.magnifications ({', '.join(self.mixed)}); "
                    "add a lower one"
                )
        for name in self.mixed:
            lacking = sum(name not in scales for _, scales in there)
            if lacking:
                log.info(
                    "%d of %d slides have no tiles at %s; the other magnifications are used for them",
                    lacking,
                    len(there),
                    name,
                )

    def row(self, index: int) -> TileRow:
        """Return the row of a tile."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[number - 1]) if number else 0
        return tile_row(self.manifest.rows[number], self.grids[number], index - first)

    @property
    def examples(self) -> Manifest:
        """Return a manifest with the first tile of each slide that has tiles."""
        firsts = np.cumsum([0, *self.lengths[:-1]])[np.array(self.lengths) > 0]
        return replace(self.manifest, rows=tuple(self.row(int(index)) for index in firsts))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the number of tiles of each slide."""
        return tuple(len(grid) for grid in self.grids)


def are_tiles(manifest: Manifest, preprocess: Preprocess) -> bool:
    """Return whether the training images are tiles of slides.

    This is the case if the preprocessing accepts 2D images, and the manifest has slides but not 2D images.
    """
    kinds = {row.kind for row in manifest}
    return preprocess.kind == "image" and "slide" in kinds and "image" not in kinds


def samples_of(manifest: Manifest, preprocess: Preprocess, slides: SlidesConfig) -> Samples:
    """Return the training samples: the images of the kind that the preprocessing accepts, or tiles (see `are_tiles`).

    Raises:
        DataError: If the dataset has no such images.
    """
    if are_tiles(manifest, preprocess):
        return TileSamples(manifest.filter(lambda row: row.kind == "slide").split("train"), preprocess, slides)
    num_slides = sum(row.kind == "slide" for row in manifest)
    if num_slides and preprocess.kind == "image":
        log.warning(
            "%d slides are not used, since %s also has ordinary images; ingest slides separately, or set "
            "taking.tiles.pack=true",
            num_slides,
            manifest.folder.name,
        )
    return Samples(manifest.filter(lambda row: row.kind == preprocess.kind).split("train"), preprocess)


def some_tiles(manifest: Manifest, slides: SlidesConfig, *, count: int, seed: int) -> Manifest:
    """Return a manifest with at most `count` random tiles per split."""
    generator = np.random.default_rng(seed)
    chosen: list[TileRow] = []
    for split in get_args(Split):
        rows = [row for row in manifest if row.split == split and row.kind == "slide"]
        grids = [slides.usable(TileGrid.read(manifest.folder, row.image_id)) for row in rows]
        places = [(n, index) for n, grid in enumerate(grids) for index in _few(len(grid), count, generator)]
        drawn = sorted(generator.permutation(len(places))[:count])
        chosen += [tile_row(rows[places[i][0]], grids[places[i][0]], places[i][1]) for i in drawn]
    return replace(manifest, rows=tuple(chosen))


def _few(length: int, count: int, generator: np.random.Generator) -> list[int]:
    return sorted(int(index) for index in generator.permutation(length)[:count])


def annotated_classes(row: Row, classes: Sequence[str]) -> Bool[Tensor, "l"] | None:
    """Return whether each class, of which the first is the background, is annotated in the label map of a row.

    The result is None if all are.
    """
    if row.annotated is None:
        return None
    return torch.tensor([index == 0 or name in row.annotated for index, name in enumerate(classes)])


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of equal shape into a batch."""
    targets = [sample.target for sample in samples if sample.target is not None]
    partly = next((sample.annotated for sample in samples if sample.annotated is not None), None)
    each = [torch.ones_like(partly) if s.annotated is None else s.annotated for s in samples if partly is not None]
    return Batch(
        pixels=torch.stack([sample.pixels for sample in samples]),
        targets=torch.stack(targets) if targets else None,
        rows=tuple(sample.row for sample in samples),
        annotated=torch.stack(each) if each else None,
    )
