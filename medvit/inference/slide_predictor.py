"""Inference with a slide model: predicts class probabilities and maps from a slide and its tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray as Array

from medvit.artifacts import Checkpoint
from medvit.backbones.attention_maps import head_maps
from medvit.backbones.vit import ViT
from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.hardware import Device, resolve_device
from medvit.models.embedding_store import Embeddings, EmbeddingStore
from medvit.models.slide import SlideModel, SlideReading
from medvit.models.tile_embedder import (
    EmbeddedSlide,
    Embedder,
    EmbeddingConfig,
    TileLoaderConfig,
    embed_manifest,
    embed_tiles,
)
from medvit.records import Kind
from medvit.transforms.padding import pad_to_multiple
from medvit.transforms.preprocess import Preprocess
from medvit.types import Image
from medvit.wsi.locations import SlidesConfig
from medvit.wsi.slide import Slide
from medvit.wsi.tiles import TileGrid


class SlidePredictor:
    """Slide model with the preprocessing of its checkpoint, loaded once.

    Raises:
        CheckpointError: If the checkpoint is of another kind or does not fit its description.
        ConfigError: If a GPU is requested but not available.
    """

    def __init__(self, checkpoint: Checkpoint, device: Device = "auto") -> None:
        self.device = resolve_device(device)
        preprocess = Preprocess.parse_saved(checkpoint.preprocess, source=str(checkpoint.folder))
        self.model = SlideModel.from_checkpoint(checkpoint).to(self.device)
        self.config = self.model.config
        self.embedder = Embedder(self.model.backbone, preprocess, self.config.features, self.device)

    @property
    def kind(self) -> Kind:
        """Kind of image that the model accepts."""
        return "slide"

    def embed(
        self,
        manifest: Manifest,
        slides: SlidesConfig,
        config: EmbeddingConfig,
        failures: list[str],
    ) -> list[EmbeddedSlide]:
        """Return the slides of a manifest with the embeddings of their tiles, made by `embed_manifest` as in training.

        Raises:
            DataError: If all slides fail, or if the size or scale of tiles differs from that in training.
        """
        skipping = slides.model_copy(update={"skip_tiles": self.config.tiles.skip})
        found = embed_manifest(manifest, skipping, embedder=self.embedder, config=config, failures=failures)
        for slide in found:
            self.config.tiles.require(slide.grid, slide.row)
        return found

    def heads_on(self, pixels: UInt8[Array, "3 s s"]) -> Float[Array, "k h w"] | None:
        """Return the backbone's attention maps on a tile.

        The result is None without a class token, with rotary positions, or with a token for each channel.
        """
        backbone = self.model.backbone
        if not isinstance(backbone, ViT) or backbone.cls_token is None or backbone.positions == "rope":
            return None
        if backbone.has_channel_tokens:
            return None
        prepared = self.embedder.preprocess(Image(pixels, "image")).pixels[None]
        padded = pad_to_multiple(prepared.to(self.device), backbone.patch_size)
        maps: Array = head_maps(backbone, padded).maps[0].float().cpu().numpy()
        return maps

    def read(self, embeddings: Embeddings) -> SlideReading:
        """Return the prediction for a slide whose tiles are embedded.

        Raises:
            DataError: If a probability is not finite.
        """
        reading = self.model.read(embeddings.to(self.device))
        if not all(np.isfinite(found).all() for found in (reading.probabilities, reading.members, reading.scores)):
            raise DataError("the predicted probabilities of the slide are not finite; expected finite ones")
        if self.config.calibration is None:
            return reading
        (probabilities,) = self.config.calibration.apply(self.config.kind, reading.probabilities[None])
        return replace(reading, probabilities=probabilities)

    def __call__(
        self, open_slide: Callable[[], Slide], grid: TileGrid, config: TileLoaderConfig, work: Path
    ) -> SlideReading:
        """Embed the tiles of a slide and return the prediction.

        Raises:
            DataError: If the slide has no tile or cannot be read.
            OutputError: If disk space for the embeddings is insufficient.
        """
        with self.embedded(open_slide, grid, config, work) as embeddings:
            return self.read(embeddings)

    @contextmanager
    def embedded(
        self, open_slide: Callable[[], Slide], grid: TileGrid, config: TileLoaderConfig, work: Path
    ) -> Iterator[Embeddings]:
        """Return a context with the embeddings of the tiles of a slide, in a temporary file in `work`.

        Raises:
            DataError: If the slide has no tile or cannot be read.
            OutputError: If disk space for the embeddings is insufficient.
        """
        if not len(grid):
            raise DataError("no tile of the slide remains")
        with TemporaryDirectory(dir=work) as folder:
            store = EmbeddingStore(Path(folder), "tiles", self.embedder.facts)
            with store.writing("slide", len(grid), self.embedder.width) as writer:
                for part in embed_tiles(open_slide, grid, self.embedder, config):
                    writer.append(part)
            embeddings = store.get("slide", len(grid))
            assert embeddings is not None
            yield embeddings
