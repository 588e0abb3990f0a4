"""Intensity statistics of a dataset, estimated from images spread evenly over the manifest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.dataset.manifest import Manifest
from medvit.measured import measured
from medvit.records import Row

SAMPLED_IMAGES = 100
SAMPLED_VOXELS = 2**28
"""Maximum number of voxels read to describe intensities, unless `MIN_IMAGES` images have more."""
MIN_IMAGES = 3
VOXELS_AN_IMAGE = 100_000
"""Approximate number of voxels of a large image from which its percentiles are computed."""
PERCENTILES = (1, 50, 99)


def sampled_rows(manifest: Manifest) -> list[Row]:
    """Return up to `SAMPLED_IMAGES` rows that are spread evenly over the manifest; fewer if the images are large."""
    return spread_evenly(manifest.rows, SAMPLED_IMAGES)


def spread_evenly(rows: Sequence[Row], most: int) -> list[Row]:
    """Return up to `most` evenly spaced rows, with up to `SAMPLED_VOXELS` voxels in all, but at least `MIN_IMAGES`."""
    if not rows:
        return []
    voxels = np.mean([float(np.prod(row.shape)) for row in rows])
    wanted = int(np.clip(SAMPLED_VOXELS / voxels, MIN_IMAGES, most))
    places = np.unique(np.linspace(0, len(rows) - 1, wanted).round().astype(int))
    return [rows[place] for place in places]


def percentiles(manifest: Manifest, row: Row) -> Float[Array, "3"] | None:
    """Return the `PERCENTILES` of the intensities of an image, in its real unit; None if no voxel was measured.

    Raises:
        DataError: If the store lacks the pixels.
    """
    pixels = manifest.store.get(row.sha256).ravel()
    values = measured(pixels[:: max(1, len(pixels) // VOXELS_AN_IMAGE)], row.padding).astype(np.float64)
    return np.percentile(values * row.slope + row.intercept, PERCENTILES) if values.size else None
