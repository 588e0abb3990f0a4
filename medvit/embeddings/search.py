"""Exact search for the most similar images by the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
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
    bank: Float[Array, "n e"],
    queries: Float[Array, "m e"],
    number: int,
    is_allowed: Callable[[int], Bool[Array, "n"]] | None = None,
) -> tuple[Sequence[Array], Sequence[Array]]:
    """Return the indices of the most similar rows of the bank for each query, and their cosines, in descending order.

    Rows with equal cosines are in the order of the bank, so that a search always gives the same result. `is_allowed`
    returns the rows that may be found for the query with an index; the others are skipped.
    """
    known, places, cosines = unit_rows(bank), [], []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        similar = unit_rows(queries[start : start + QUERIES_AT_ONCE]) @ known.T
        for index, every in enumerate(similar, start=start):
            allowed = np.arange(len(every)) if is_allowed is None else np.flatnonzero(is_allowed(index))
            row = every[allowed]
            few = min(number, len(row))
            bound = np.partition(row, len(row) - few)[len(row) - few] if few else np.inf
            candidates = np.flatnonzero(row >= bound)
            chosen = candidates[np.argsort(-row[candidates], kind="stable")][:few]
            places.append(allowed[chosen])
            cosines.append(row[chosen])
    return places, cosines


def search(bank: EmbeddingTable, queries: EmbeddingTable, number: int, excluded: str = "") -> list[Hit]:
    """Return the most similar images of a bank for each query.

    `excluded` is a column, such as `patient_id`: images with the same value as the query are skipped. Empty: no
    image is skipped.
    """
    known, asked = (np.array(one.values(excluded) if excluded else [], dtype=object) for one in (bank, queries))
    is_allowed = (lambda index: known != asked[index]) if excluded else None
    hits = []
    for query, *found in zip(queries.images, *nearest(bank.vectors, queries.vectors, number, is_allowed), strict=True):
        for rank, (place, cosine) in enumerate(zip(*found, strict=True), start=1):
            hits.append(Hit(query, rank, bank.images[place], float(cosine)))
    return hits


def unit_rows(vectors: Float[Array, "n e"]) -> Float[Array, "n e"]:
    """Return the vectors with norm 1; a zero vector remains zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1.0))
