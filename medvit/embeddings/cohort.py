"""Distance of an image from a training cohort: whether a model has seen images like it.

The distance is that of Mahalanobis, with the covariance of the training images shrunk by the formula of Ledoit and Wolf
(Journal of Multivariate Analysis 2004), as in Lee et al. (NeurIPS 2018), but without classes. Images of
patients that the distance was not fitted to give a threshold: 95 % of the validation images are below it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from medvit.embeddings.table import EmbeddingTable
from medvit.errors import DataError

SHARE_BELOW = 0.95
"""Share of the validation images that are below the threshold."""
FEWEST_TRAIN, FEWEST_VAL = 20, 20
"""Minimum numbers of training and validation images."""


@dataclass(frozen=True)
class TrainingCohort:
    """Distribution of the embeddings of training images, and a threshold of the distance from it.

    `whitening` (E, R) maps centered embeddings to coordinates in which the distance is Euclidean.
    """

    mean: Float[Array, "e"]
    whitening: Float[Array, "e r"]
    threshold: float
    num_train: int
    num_val: int

    @classmethod
    def of(cls, table: EmbeddingTable) -> TrainingCohort:
        """Return the cohort of the training images of a table, with a threshold from its validation images.

        Raises:
            DataError: If there are too few training or validation images.
        """
        train, val = (table.where(lambda image, name=name: image.split == name) for name in ("train", "val"))  # type: ignore[misc]
        for name, part, fewest in (("train", train, FEWEST_TRAIN), ("val", val, FEWEST_VAL)):
            if len(part) < fewest:
                raise DataError(
                    f"the embeddings have {len(part)} images of the {name} split; expected at least {fewest} for the "
                    "distance from the training images: embed the train and val splits of a larger dataset"
                )
        return cls.fit(train.vectors.astype(np.float64), val.vectors.astype(np.float64))

    @classmethod
    def fit(cls, train: Float[Array, "n e"], val: Float[Array, "m e"]) -> TrainingCohort:
        """Return the cohort of training embeddings, with a threshold from validation embeddings."""
        from sklearn.covariance import ledoit_wolf

        mean = train.mean(axis=0)
        covariance, _ = ledoit_wolf(train - mean, assume_centered=True)
        values, directions = np.linalg.eigh(covariance)
        kept = values > 1e-9 * values.max()
        whitening = directions[:, kept] / np.sqrt(values[kept])
        open_ended = cls(mean, whitening, np.inf, len(train), len(val))
        threshold = float(np.quantile(open_ended.distances(val), SHARE_BELOW, method="higher"))
        return cls(mean, whitening, threshold, len(train), len(val))

    def distances(self, vectors: Float[Array, "n e"]) -> Float[Array, "n"]:
        """Return the Mahalanobis distance of each embedding from the mean, over the root of the number of dimensions.

        A typical training image has a distance of about 1.
        """
        coordinates = (vectors.astype(np.float64) - self.mean) @ self.whitening
        return np.asarray(np.sqrt((coordinates**2).mean(axis=1)))

    def is_outside(self, distances: Float[Array, "n"]) -> Bool[Array, "n"]:
        """Return whether distances are above the threshold."""
        return np.asarray(distances > self.threshold)
