"""Exact search for the most similar images by the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.embeddings.table import EmbeddedImage, EmbeddingTable

QUERIES_AT_ONCE = 256
"""Number of queries whose cosines with all images are in memory at once (0.2 GB for 100,000 images)."""


@dataclass(frozen=True)
class Hit:
    """Image that was found for a query, with its cosine and its rank, from 1."""

    query: EmbeddedImage
    rank: int
    found: EmbeddedImage
    cosine: float


def nearest(
    bank: Float[Array, "n e"], queries: Float[Array, "m e"], number: int
) -> tuple[Sequence[Array], Sequence[Array]]:
    """Return the indices of the most similar rows of the bank for each query, and their cosines, in descending order.

    Rows with equal cosines are in the order of the bank, so that a search always gives the same result.
    """
    known, places, cosines = unit_rows(bank), [], []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        similar = unit_rows(queries[start : start + QUERIES_AT_ONCE]) @ known.T
        for row in similar:
            few = min(number, len(row))
            bound = np.partition(row, len(row) - few)[len(row) - few] if few else np.inf
            candidates = np.flatnonzero(row >= bound)
            chosen = candidates[np.argsort(-row[candidates], kind="stable")][:few]
            places.append(chosen)
            cosines.append(row[chosen])
    return places, cosines


def search(
    bank: EmbeddingTable,
    queries: EmbeddingTable,
    number: int,
    is_excluded: Callable[[EmbeddedImage, EmbeddedImage], bool] = lambda query, found: False,
) -> list[Hit]:
    """Return the most similar images of a bank for each query; images that are excluded for a query are skipped."""
    hits = []
    for index, query in enumerate(queries.images):
        allowed = bank.where(lambda image, query=query: not is_excluded(query, image))  # type: ignore[misc]
        places, cosines = nearest(allowed.vectors, queries.vectors[index : index + 1], number)
        for rank, (place, cosine) in enumerate(zip(places[0], cosines[0], strict=True), start=1):
            hits.append(Hit(query, rank, allowed.images[place], float(cosine)))
    return hits


def unit_rows(vectors: Float[Array, "n e"]) -> Float[Array, "n e"]:
    """Return the vectors with norm 1; a zero vector remains zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1.0))
