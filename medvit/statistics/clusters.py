"""Clusters of images: the images of a patient, which are not independent, as sums over each patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array


@dataclass(frozen=True)
class Clusters:
    """Patient of each image, as an index from 0 to `total` - 1."""

    member: Int[Array, "n"]
    total: int

    @classmethod
    def of(cls, patients: Sequence[str]) -> Clusters:
        """Return the clusters of images, given the patient of each."""
        names, member = np.unique(np.asarray(patients), return_inverse=True)
        return cls(member, len(names))

    def sums(self, values: Float[Array, "n"]) -> Float[Array, "p"]:
        """Return the sum of the values of the images of each patient."""
        return np.bincount(self.member, weights=values, minlength=self.total)


def inflation(num_clusters: int) -> float:
    """Return the factor I / (I - 1), which makes a variance over I clusters unbiased; NaN for a single cluster."""
    return num_clusters / (num_clusters - 1) if num_clusters > 1 else float("nan")
