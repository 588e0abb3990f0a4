"""Shape measures of binary images, such as segmented organs: size, surface, extents and principal axes."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.errors import DataError
from medvit.records import Row

MEASURES = ("size", "surface", "compactness", "extents", "fill", "axes")
"""Measures of a shape, in the order of its features; `extents` and `axes` have one number for each dimension."""


def shape_features(manifest: Manifest) -> Float[Array, "n f"]:
    """Return the shape measures of each image, in units of its pixels or voxels.

    Raises:
        DataError: If an image has more than two different pixel values, so that it is not a shape.
    """
    return np.stack([shape_measures(_shape_in(manifest, row)) for row in manifest])


def shape_measures(shape: Bool[Array, "*s"]) -> Float[Array, "f"]:
    """Return the measures of a shape (*S); zeros if it is empty.

    - size: number of pixels or voxels (area or volume)
    - surface: number of faces of pixels or voxels between inside and outside
    - compactness: size to the power (d - 1) / d over the surface, in d dimensions
    - extents: sides of the bounding box, in ascending order
    - fill: size over the size of the bounding box
    - axes: standard deviations along the principal axes, in ascending order
    """
    size = float(shape.sum())
    if not size:
        return np.zeros(4 + 2 * shape.ndim)
    places = np.argwhere(shape)
    extents = np.sort(np.ptp(places, axis=0) + 1.0)
    padded = np.pad(shape, 1)
    surface = float(sum(np.diff(padded.astype(np.int8), axis=axis).astype(bool).sum() for axis in range(shape.ndim)))
    spread = np.cov(places.T, bias=True)
    axes = np.sqrt(np.clip(np.linalg.eigvalsh(np.atleast_2d(spread)), 0.0, None))
    compactness = size ** ((shape.ndim - 1) / shape.ndim) / surface
    return np.array([size, surface, compactness, *extents, size / math.prod(extents), *axes])


def are_shapes(manifest: Manifest, sample: int = 20) -> bool:
    """Return whether the first images have at most two different pixel values each."""
    rows = manifest.rows[:sample]
    return all(row.kind != "slide" and len(np.unique(load(manifest, row).pixels)) <= 2 for row in rows)


def _shape_in(manifest: Manifest, row: Row) -> Bool[Array, "*s"]:
    pixels = load(manifest, row).pixels
    values = np.unique(pixels)
    if len(values) > 2:
        raise DataError(f"{row} has {len(values)} different pixel values; expected a shape, with at most two")
    inside = pixels[0] == values[-1] if len(values) == 2 else pixels[0] > 0
    return np.asarray(inside)
