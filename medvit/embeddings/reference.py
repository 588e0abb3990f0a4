"""Distance of new images from the training images of a dataset, which was embedded with the same backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.artifacts import Checkpoint
from medvit.embeddings.cohort import SHARE_BELOW, TrainingCohort
from medvit.embeddings.image_embedder import ImageEmbedder, LastLayer
from medvit.embeddings.neighbors import TrainingNeighbors
from medvit.embeddings.table import EmbeddingTable, key_of
from medvit.errors import ConfigError
from medvit.hardware import Device
from medvit.types import Image

DISTANCE = "distance from training images"
"""Name of the distance in `predictions.csv`."""


@dataclass(frozen=True)
class CohortReference:
    """Training cohort with the embedder of its images; call it with an image for the distance from the cohort."""

    embedder: ImageEmbedder
    cohort: TrainingCohort
    neighbors: TrainingNeighbors | None = None
    """Search for the nearest training images. None: it was not requested."""

    @classmethod
    def of(
        cls, folder: Path, checkpoint: Checkpoint, device: Device = "auto", *, num_neighbors: int = 0
    ) -> CohortReference:
        """Return the cohort of the embeddings in a folder, which must have been made with the checkpoint.

        With `num_neighbors`, it also finds this number of nearest training images.

        Raises:
            ConfigError: If the embeddings were made with another checkpoint.
            DataError: If the folder has no embeddings, or too few of the train and val splits.
        """
        table = EmbeddingTable.read(folder)
        embedder = embedder_of(table, folder, checkpoint, device)
        neighbors = TrainingNeighbors.of(table, num_neighbors) if num_neighbors else None
        return cls(embedder, TrainingCohort.of(table), neighbors)

    def __call__(self, image: Image) -> float:
        """Return the distance of an image from the training images.

        Raises:
            DataError: If the preprocessing does not accept the image.
        """
        return self.distance(self.embedder(image))

    def distance(self, vector: Float[Array, "e"]) -> float:
        """Return the distance of an embedded image from the training images."""
        return float(self.cohort.distances(vector[None])[0])

    def note(self, distance: float) -> str:
        """Return a note if the distance is above the threshold, else an empty text."""
        if not self.cohort.is_outside(np.array([distance]))[0]:
            return ""
        return (
            f"unlike the training images: the distance from them is {distance:.2f}, and {SHARE_BELOW:.0%} of the "
            f"validation images are below {self.cohort.threshold:.2f}"
        )


def embedder_of(table: EmbeddingTable, name: object, checkpoint: Checkpoint, device: Device = "auto") -> ImageEmbedder:
    """Return the embedder of a checkpoint, with which the table must have been made; `name` is that of the table.

    Raises:
        ConfigError: If the embeddings were made with another checkpoint.
    """
    embedder = ImageEmbedder(checkpoint, device, LastLayer(table.facts.get("features", "class_mean")))
    if table.key != key_of(embedder.facts):
        raise ConfigError(
            f"{name} was embedded with another checkpoint than {checkpoint.folder}; run medvit embed with this "
            "one on the training dataset"
        )
    return embedder
