"""A model of slides at work: a slide and its tiles go in, probabilities and maps come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray as Array

from medvit.artifacts import Checkpoint
from medvit.backbones.head_maps import head_maps
from medvit.backbones.vit import ViT
from medvit.embeddings import Embeddings, EmbeddingStore
from medvit.errors import DataError
from medvit.inference.predictor import Device, resolve_device
from medvit.manifest import Manifest
from medvit.readers.slides import Slide
from medvit.samples import Image, Kind
from medvit.slide_model import SlideModel, SlideReading
from medvit.slides import SlidesConfig
from medvit.tile_features import EmbeddedSlide, Embedder, EmbeddingConfig, TileLoaderConfig, embed_manifest, embed_tiles
from medvit.tiles import TileGrid
from medvit.transforms.padding import pad_to_multiple
from medvit.transforms.preprocess import Preprocess


class SlidePredictor:
    """A model of slides with the preprocessing of its checkpoint, loaded once.

    Raises:
        CheckpointError: If the checkpoint is of another kind or does not fit its description.
        ConfigError: If a GPU is asked for and there is none.
    """

    def __init__(self, checkpoint: Checkpoint, device: Device = "auto") -> None:
        self.device = resolve_device(device)
        preprocess = Preprocess.parse(checkpoint.preprocess, source=str(checkpoint.folder))
        self.model = SlideModel.from_checkpoint(checkpoint).to(self.device)
        self.config = self.model.config
        self.embedder = Embedder(self.model.backbone, preprocess, self.config.features, self.device)

    @property
    def kind(self) -> Kind:
        """What it takes: slides."""
        return "slide"

    def embed(
        self,
        manifest: Manifest,
        slides: SlidesConfig,
        config: EmbeddingConfig,
        failures: list[str],
    ) -> list[EmbeddedSlide]:
        """The slides of a manifest with the embeddings of the tiles that the model takes, as `embed_manifest`.

        Raises:
            DataError: If all slides fail, or if their tiles are of another size or scale.
        """
        skipping = slides.model_copy(update={"skip_tiles": self.config.tiles.skip})
        found = embed_manifest(manifest, skipping, embedder=self.embedder, config=config, failures=failures)
        for slide in found:
            self.config.tiles.require(slide.grid, slide.row)
        return found

    def heads_on(self, pixels: UInt8[Array, "3 s s"]) -> Float[Array, "k h w"] | None:
        """What each attention head of the backbone looks at on a tile; none without a class token, or with rope."""
        backbone = self.model.backbone
        if not isinstance(backbone, ViT) or backbone.cls_token is None or backbone.positions == "rope":
            return None
        prepared = self.embedder.preprocess(Image(pixels, "image")).pixels[None]
        padded = pad_to_multiple(prepared.to(self.device), backbone.patch_size)
        maps: Array = head_maps(backbone, padded).maps[0].float().cpu().numpy()
        return maps

    def read(self, embeddings: Embeddings) -> SlideReading:
        """What the model says of a slide whose tiles are embedded."""
        return self.model.read(embeddings.to(self.device))

    def __call__(
        self, open_slide: Callable[[], Slide], grid: TileGrid, config: TileLoaderConfig, work: Path
    ) -> SlideReading:
        """What the model says of a slide; embeddings lie in `work` for as long as it takes, and not in memory.

        Raises:
            DataError: If it has no tile or cannot be read.
            OutputError: If there is no room for the embeddings.
        """
        if not len(grid):
            raise DataError("none of the tiles of the slide is left")
        with TemporaryDirectory(dir=work) as folder:
            store = EmbeddingStore(Path(folder), "tiles", self.embedder.facts)
            with store.writing("slide", len(grid), self.embedder.width) as writer:
                for part in embed_tiles(open_slide, grid, self.embedder, config):
                    writer.append(part)
            embeddings = store.get("slide", len(grid))
            assert embeddings is not None
            return self.read(embeddings)


@dataclass(frozen=True)
class SlideFinding:
    """A slide with its tiles and what a model says of them, to be written; `mpp`, `shape` (H, W) of level 0."""

    grid: TileGrid
    reading: SlideReading
    classes: tuple[str, ...]
    shape: tuple[int, int]
    mpp: float

    @property
    def side(self) -> float:
        """Pixels of level 0 that the side of a tile spans."""
        return self.grid.side(self.mpp)

    def top(self, count: int) -> Int[Array, "k"]:
        """The tiles with most attention, most first; of tiles that overlap, only one."""
        chosen: list[int] = []
        for index in np.argsort(-self.reading.attention, kind="stable"):
            apart = np.abs(self.grid.xy[chosen] - self.grid.xy[index]).max(axis=1) if chosen else np.array([np.inf])
            if apart.min() >= self.side - 1:
                chosen.append(int(index))
            if len(chosen) == count:
                break
        return np.array(chosen)

    def heat_classes(self) -> Sequence[int]:
        """The classes that get a map: of two, the second says all."""
        return [1] if len(self.classes) == 2 else range(len(self.classes))


@dataclass(frozen=True)
class HeatMap:
    """A value for each cell (rows, columns) of a slide, not a number where there is no tile.

    Cells are squares of `cell` pixels of level 0 that start at its origin; `mpp` is that of level 0. Of overlapping
    tiles, a cell has the mean.
    """

    values: Float[Array, "r c"]
    cell: float
    mpp: float


def attention_map(finding: SlideFinding) -> HeatMap:
    """Where the model looked: for each tile the share of tiles with less attention, or the same and before it."""
    order = np.argsort(np.argsort(finding.reading.attention, kind="stable"), kind="stable")
    return _map(finding, (order + 1) / len(order))


def class_map(finding: SlideFinding, label: int) -> HeatMap:
    """The probability of a class of each tile by itself."""
    return _map(finding, finding.reading.scores[:, label])


def _map(finding: SlideFinding, values: Float[Array, "n"]) -> HeatMap:
    overlap = float(finding.grid.facts.get("overlap", "0"))
    cell = finding.side * (1.0 - overlap)
    span = max(1, round(finding.side / cell))
    shape = tuple(int(np.ceil(length / cell)) + span for length in finding.shape)
    sums, counts = np.zeros(shape), np.zeros(shape)
    columns, rows = np.round(finding.grid.xy / cell).astype(int).T
    for down in range(span):
        for across in range(span):
            np.add.at(sums, (rows + down, columns + across), values)
            np.add.at(counts, (rows + down, columns + across), 1.0)
    mean = np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)
    height, width = (max(1, int(np.ceil(length / cell - 1e-3))) for length in finding.shape)
    return HeatMap(mean[:height, :width], cell, finding.mpp)
