"""Embedding of images and volumes: preprocessed as for the checkpoint, passed through its frozen backbone, pooled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array
from torch import Tensor

from medvit.artifacts import Checkpoint
from medvit.backbones import Backbone
from medvit.config import Tree
from medvit.dataset.slices import SlicesConfig, slices_of
from medvit.errors import CheckpointError, DataError
from medvit.hardware import Device, half_precision, resolve_device
from medvit.models.base import pretrained_backbone
from medvit.models.features import Features, available, digest_of_backbone, pooled
from medvit.models.image import Model, covering_windows
from medvit.records import Kind
from medvit.transforms.padding import pad_about, pad_to_multiple
from medvit.transforms.preprocess import Preprocess
from medvit.types import Image

POINTS_OF_A_BATCH = 2**22
"""Maximum number of pixels or voxels in a forward pass (83 images of 224 x 224), unless a single image has more."""


class Pooling(Protocol):
    """Function from the pixels of a batch (B, C, *S) to features (B, E)."""

    def __call__(self, backbone: Backbone, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b e"]:
        """Return the features of each image, as float32."""
        ...

    def tree(self) -> Tree:
        """Return a description of the features."""
        ...


@dataclass(frozen=True)
class LastLayer:
    """Features of the last layer; a backbone without a class token has the mean of its patch tokens."""

    features: Features = "class_mean"

    def __call__(self, backbone: Backbone, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b e"]:
        """Return the features of each image, as float32."""
        return pooled(backbone(pixels), available(self.features, backbone))

    def tree(self) -> Tree:
        """Return a description of the features."""
        return {"features": self.features}


class ImageEmbedder:
    """Frozen backbone of a checkpoint with its preprocessing, which maps images to embeddings.

    The backbone of a fine-tuned model includes its adapter. An image larger than the training crops of such a model is
    embedded as it is predicted: in windows of this size, whose embeddings are averaged. For a model of slices, the
    embedding of a volume is the mean over its slices.

    Raises:
        CheckpointError: If the checkpoint is an ensemble, which has several backbones, or of slides.
        ConfigError: If a GPU is requested but not available.
    """

    def __init__(self, checkpoint: Checkpoint, device: Device = "auto", pooling: Pooling | None = None) -> None:
        self.device = resolve_device(device)
        self.preprocess = Preprocess.parse_saved(checkpoint.preprocess, source=str(checkpoint.folder))
        self.pooling = pooling or LastLayer()
        self.window: tuple[int, ...] | None = None
        self.overlap = 0.0
        self.slices: SlicesConfig | None = None
        backbone = self._of_model(checkpoint) if checkpoint.kind != "backbone" else pretrained_backbone(checkpoint)
        self.backbone = backbone.to(self.device).eval().requires_grad_(False)

    def _of_model(self, checkpoint: Checkpoint) -> Backbone:
        if checkpoint.is_ensemble or checkpoint.kind == "slide":
            what = "an ensemble, which has several backbones" if checkpoint.is_ensemble else "a model of slides"
            raise CheckpointError(
                f"{checkpoint.folder} is {what}; expected a backbone or a single model of images: give the checkpoint "
                "that it was fine-tuned from, or one of its models"
            )
        model = Model.from_checkpoint(checkpoint)
        self.window, self.overlap, self.slices = model.config.roi, model.config.overlap, model.config.slices
        return model.backbone

    @property
    def kind(self) -> Kind:
        """Kind of image that the embedder accepts."""
        return "volume" if self.slices is not None else self.preprocess.kind

    @property
    def facts(self) -> Tree:
        """Everything that determines an embedding: digest of the weights, preprocessing, windows and features."""
        return {
            "weights_sha256": digest_of_backbone(self.backbone),
            "preprocess": self.preprocess.tree(),
            "window": None if self.window is None else list(self.window),
            "overlap": self.overlap,
            "slices": None if self.slices is None else self.slices.tree(),
            **self.pooling.tree(),
        }

    def parts(self, image: Image) -> list[Float[Tensor, "c *s"]]:
        """Return the preprocessed parts of an image whose embeddings are averaged: slices, windows, or the image.

        Raises:
            DataError: If the preprocessing does not accept the image.
        """
        self.preprocess.require_finite(image)
        cut = [image] if self.slices is None else list(slices_of(image, self.slices))
        return [part for one in cut for part in self._windows(self.preprocess.prepared(one).pixels)]

    def _windows(self, pixels: Float[Tensor, "c *s"]) -> Iterator[Float[Tensor, "c *s"]]:
        if self.window is None:
            yield pixels
            return
        padded, _ = pad_about(pixels[None], self.window)
        for place in covering_windows(padded.shape[2:], self.window, self.overlap):
            yield padded[place][0]

    @torch.inference_mode()
    def embed(self, images: Iterable[list[Float[Tensor, "c *s"]]]) -> Float[Array, "n e"]:
        """Return the embeddings (N, E) of images, each given by its preprocessed parts; parts are passed in batches.

        Raises:
            DataError: If an embedding is not finite.
        """
        totals: dict[int, Float[Array, "e"]] = {}
        counts: list[int] = []
        batch: list[tuple[int, Tensor]] = []
        for number, parts in enumerate(images):
            counts.append(len(parts))
            for part in parts:
                if batch and not _fits(batch, part):
                    self._add(batch, totals)
                batch.append((number, part))
        self._add(batch, totals)
        if not counts:
            return np.zeros((0, 0), np.float32)
        rows = np.stack([totals[number] / count for number, count in enumerate(counts)]).astype(np.float32)
        if not np.isfinite(rows).all():
            raise DataError("an embedding is not finite; choose another backbone")
        return rows

    def __call__(self, image: Image) -> Float[Array, "e"]:
        """Return the embedding of an image.

        Raises:
            DataError: If the preprocessing does not accept the image, or the embedding is not finite.
        """
        row: Float[Array, "e"] = self.embed([self.parts(image)])[0]
        return row

    def _add(self, batch: list[tuple[int, Tensor]], totals: dict[int, Float[Array, "e"]]) -> None:
        """Add the features of each part in the batch to the total of its image, and empty the batch."""
        if batch:
            rows = self._features(torch.stack([part for _, part in batch]))
            for (number, _), row in zip(batch, rows, strict=True):
                totals[number] = totals.get(number, 0.0) + row
            batch.clear()

    def _features(self, pixels: Float[Tensor, "b c *s"]) -> Float[Array, "b e"]:
        padded = pad_to_multiple(pixels.to(self.device), self.backbone.multiple)
        dtype = half_precision(self.device)
        with torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            rows = self.pooling(self.backbone, padded)
        return np.asarray(rows.double().cpu().numpy())


def _fits(batch: list[tuple[int, Tensor]], part: Float[Tensor, "c *s"]) -> bool:
    num_points = (len(batch) + 1) * math.prod(part.shape[1:])
    return batch[0][1].shape == part.shape and num_points <= POINTS_OF_A_BATCH
