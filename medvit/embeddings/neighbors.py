"""Nearest training cases of an image: similar images that the model was trained on, with their labels.

A case is evidence of what a model was trained on near the image. It does not show why the model predicts a class.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.embeddings.search import nearest
from medvit.embeddings.table import EmbeddedImage, EmbeddingTable
from medvit.errors import DataError

NEARLY_IDENTICAL = 0.999
"""Cosine above which a training image is reported as a possible copy or near duplicate of an image."""
COLUMNS = ("rank", "image_id", "patient_id", "cosine", "labels")


@dataclass(frozen=True)
class Neighbor:
    """Training image that is similar to an image, with its cosine."""

    image: EmbeddedImage
    cosine: float

    @property
    def labels(self) -> str:
        """Labels as text, such as `grade=2; sex=F`."""
        return "; ".join(f"{name}={value}" for name, value in sorted(self.image.labels.items()))


@dataclass(frozen=True)
class Neighborhood:
    """Nearest training images of other patients, most similar first, and warnings about leakage."""

    neighbors: tuple[Neighbor, ...]
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[list[str]]:
        """Return the values of `COLUMNS` for each neighbor."""
        return [
            [str(rank), one.image.image_id, one.image.patient_id, f"{one.cosine:.4f}", one.labels]
            for rank, one in enumerate(self.neighbors, start=1)
        ]


@dataclass(frozen=True)
class TrainingNeighbors:
    """Training images of a table of embeddings, among which the most similar ones are found by exact search."""

    table: EmbeddingTable
    number: int
    """Maximum number of neighbors of an image."""

    @classmethod
    def of(cls, table: EmbeddingTable, number: int) -> TrainingNeighbors:
        """Return the search among the images of the train split of a table.

        Raises:
            DataError: If the table has no such images.
        """
        train = table.where(lambda image: image.split == "train")
        if not len(train):
            raise DataError("the embeddings have no image of the train split; embed the training dataset")
        return cls(train, number)

    def __call__(self, vector: Float[Array, "e"], patients: Collection[str] = (), study: str = "") -> Neighborhood:
        """Return the nearest training images of an embedded image.

        `patients` are pseudonyms of its patient, and `study` is that of its study: their images are never neighbors. A
        warning states that there are such images, or that a neighbor is nearly identical.
        """
        own = np.array([one.patient_id in patients or one.study_id == study for one in self.table.images])
        (places,), (cosines,) = nearest(self.table.vectors, vector[None], self.number, lambda _: ~own)
        found = tuple(
            Neighbor(self.table.images[place], float(cosine)) for place, cosine in zip(places, cosines, strict=True)
        )
        return Neighborhood(found, tuple(self._warnings(found, int(own.sum()))))

    def _warnings(self, found: Sequence[Neighbor], num_own: int) -> list[str]:
        warnings = []
        if num_own:
            warnings.append(
                f"leakage: {num_own} training images are of the same patient or study; they are not shown as neighbors"
            )
        if found and found[0].cosine > NEARLY_IDENTICAL:
            warnings.append(
                f"possible leakage: the training image {found[0].image.image_id} is nearly identical, with a cosine of "
                f"{found[0].cosine:.4f}; check whether it is the same image or patient"
            )
        return warnings
