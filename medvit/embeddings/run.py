"""Embedding of all images of a dataset, in chunks that are stored when finished, so that a run can be resumed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array
from torch import Tensor

from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.embeddings.image_embedder import ImageEmbedder
from medvit.errors import DataError, MedvitError, unexpected
from medvit.files.atomic import write_bytes
from medvit.models.tile_embedder import EmbeddedSlide
from medvit.progress import Progress
from medvit.records import Row

CHUNK = 64
"""Number of images in a chunk, which is stored when all of them are embedded."""
TILES_AT_ONCE = 4096
"""Number of tile embeddings of a slide in memory at once."""


def embed_images(
    manifest: Manifest, embedder: ImageEmbedder, work: Path, failures: list[str]
) -> tuple[list[Row], Float[Array, "n e"]]:
    """Return the rows of a manifest that could be embedded, and their embeddings (N, E).

    Finished chunks are stored in the folder `work`, and are read from there by the next run. An image that fails adds
    a line to `failures`.

    Raises:
        DataError: If all images fail.
    """
    work.mkdir(exist_ok=True)
    rows, found, num_before = list(manifest), [], len(failures)
    kept: list[Row] = []
    with Progress(len(rows), title="Embedding", unit="image") as progress:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            path = work / f"{start:09}.npz"
            if not path.is_file():
                _store(path, manifest, chunk, embedder)
            with np.load(path, allow_pickle=False) as stored:
                kept += [chunk[index] for index in stored["places"]]
                found.append(stored["vectors"])
                failures += stored["failures"].tolist()
            progress.update(len(chunk))
    if not kept:
        raise DataError(f"{manifest.folder}: all {len(rows)} images failed, first {failures[num_before]}")
    return kept, np.concatenate([part for part in found if len(part)])


def mean_of_tiles(slides: Sequence[EmbeddedSlide]) -> Float[Array, "n e"]:
    """Return the mean of the tile embeddings of each slide, (N, E)."""
    return np.stack([_mean(slide) for slide in slides]).astype(np.float32)


def _mean(slide: EmbeddedSlide) -> Float[Array, "e"]:
    import torch

    total = np.zeros(slide.embeddings.width)
    for start in range(0, len(slide.embeddings), TILES_AT_ONCE):
        places = torch.arange(start, min(start + TILES_AT_ONCE, len(slide.embeddings)))
        total += slide.embeddings.take(places).double().sum(dim=0).numpy()
    return total / len(slide.embeddings)


def _store(path: Path, manifest: Manifest, rows: Sequence[Row], embedder: ImageEmbedder) -> None:
    places: list[int] = []
    failures: list[str] = []
    vectors = embedder.embed(_prepared(manifest, rows, embedder, places, failures))
    buffer = io.BytesIO()
    texts = np.array(failures, dtype=np.str_)
    np.savez(buffer, allow_pickle=False, vectors=vectors, places=np.array(places, dtype=np.int64), failures=texts)
    write_bytes(path, buffer.getvalue())


def _prepared(
    manifest: Manifest, rows: Sequence[Row], embedder: ImageEmbedder, places: list[int], failures: list[str]
) -> Iterator[list[Tensor]]:
    """Yield the preprocessed parts of each image; its place is added to `places`, or its error to `failures`."""
    for place, row in enumerate(rows):
        try:
            parts = embedder.parts(load(manifest, row))
        except MedvitError as error:
            failures.append(f"{row}: {error}")
        except (RuntimeError, ValueError, OSError) as error:  # a damaged array
            failures.append(f"{row}: {unexpected(error)}")
        else:
            places.append(place)
            yield parts
