"""Embedding of all images of a dataset with the backbone of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from numpy import ndarray as Array
from pydantic import Field

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.embeddings.image_embedder import ImageEmbedder, LastLayer
from medvit.embeddings.run import embed_images, mean_of_tiles
from medvit.embeddings.table import TABLE, EmbeddedImage, EmbeddingTable
from medvit.errors import DataError
from medvit.hardware import Device, resolve_device
from medvit.models.base import pretrained_backbone
from medvit.models.features import Features, digest_of_backbone
from medvit.models.slide import SlideModel
from medvit.models.tile_embedder import Embedder, EmbeddingConfig, embed_manifest
from medvit.patients import PatientCount
from medvit.records import Row, Split
from medvit.stage import Run, StageConfig, stage
from medvit.summary import Summary, counted
from medvit.transforms.preprocess import Preprocess
from medvit.wsi.locations import SlidesConfig

CHUNKS = "chunks"
"""Folder of finished chunks in the folder of an unfinished run."""


class EmbedConfig(StageConfig):
    """Options of `medvit embed`."""

    checkpoint: Path
    """Folder of a backbone or of a model, made by pretrain or finetune. Of a model, only its backbone is used, with the
    adapter.
    """
    dataset: Path
    """Dataset folder made by ingest."""
    output: Path
    """New folder for the embeddings."""
    splits: tuple[Split, ...] = Field(default=("train", "val", "test"), min_length=1)
    """Splits whose images are embedded."""
    features: Features = "class_mean"
    """Tokens of the last layer that form an embedding. class: the class token. mean: the mean of the patch tokens.
    class_mean: both. A backbone without a class token has `mean` instead.
    """
    device: Device = "auto"
    """Device to run the backbone on. The value auto uses the GPU if there is one."""
    slides: SlidesConfig = Field(default_factory=SlidesConfig)
    tiles: EmbeddingConfig = Field(default_factory=EmbeddingConfig)


@dataclass(frozen=True)
class EmbeddingFolder:
    """Embeddings of a dataset: `embeddings.parquet`."""

    folder: Path
    table: EmbeddingTable
    patients: PatientCount

    def summary(self) -> Summary:
        """Return the numbers of images and patients, the width, and the digest of the weights."""
        width = self.table.vectors.shape[1]
        lines = [
            ("embedded", f"{counted(len(self.table), self.table.images[0].kind)}, {self.patients}"),
            ("width", str(width)),
            ("weights", str(self.table.facts["weights_sha256"])),
        ]
        return Summary(lines, {TABLE: "a row for each image, with its embedding"})


@stage
def embed(config: EmbedConfig, run: Run) -> EmbeddingFolder:
    """Compute the embedding of every image of a dataset with a backbone, and write them as a table."""
    manifest = run.dataset(config.dataset)
    checkpoint = run.checkpoint(config.checkpoint)
    run.leftovers.add(CHUNKS)
    chosen = manifest.filter(lambda row: row.split in config.splits)

    if checkpoint.kind == "slide" or _has_only_slides(chosen, checkpoint):
        rows, vectors, facts = _of_slides(config, run, chosen, checkpoint)
    else:
        embedder = ImageEmbedder(checkpoint, config.device, LastLayer(config.features))
        fitting = _of_kind(chosen, embedder.kind)
        rows, vectors = embed_images(fitting, embedder, run.folder / CHUNKS, run.failures)
        facts = embedder.facts

    table = EmbeddingTable(tuple(map(EmbeddedImage.of, rows)), vectors, facts)
    table.write(run.folder)
    run.tracker.metrics({"num_embedded": len(table)})
    run.keep(TABLE)
    return EmbeddingFolder(run.folder, table, PatientCount.of(rows))


def _of_slides(
    config: EmbedConfig, run: Run, manifest: Manifest, checkpoint: Checkpoint
) -> tuple[list[Row], Float[Array, "n e"], dict[str, object]]:
    """Return the slides that could be embedded, the means of their tile embeddings, and what determines these."""
    preprocess = Preprocess.parse_saved(checkpoint.preprocess, source=str(checkpoint.folder))
    features, slides = config.features, config.slides
    if checkpoint.kind == "slide":
        model = SlideModel.from_checkpoint(checkpoint)
        backbone, features = model.backbone, model.config.features
        slides = slides.model_copy(update={"skip_tiles": model.config.tiles.skip})
    else:
        backbone = pretrained_backbone(checkpoint)
    embedder = Embedder(backbone, preprocess, features, resolve_device(config.device))
    found = embed_manifest(
        _of_kind(manifest, "slide"), slides, embedder=embedder, config=config.tiles, failures=run.failures
    )
    facts = {
        "weights_sha256": digest_of_backbone(embedder.backbone),
        **embedder.facts,
        "skip_tiles": list(slides.skip_tiles),
        "of": "mean of tiles",
    }
    return [one.row for one in found], mean_of_tiles(found), facts


def _has_only_slides(manifest: Manifest, checkpoint: Checkpoint) -> bool:
    return checkpoint.kind == "backbone" and {row.kind for row in manifest} == {"slide"}


def _of_kind(manifest: Manifest, kind: str) -> Manifest:
    found = manifest.filter(lambda row: row.kind == kind)
    if not found.rows:
        kinds = ", ".join(sorted({f"{row.kind}s" for row in manifest})) or "no images"
        raise DataError(
            f"{manifest.folder}: the checkpoint is for {kind}s, the chosen splits have {kinds}; give another "
            "checkpoint, dataset or splits"
        )
    return found
