"""Pixels of small images as features: each image is reduced, then optionally centered and divided by its norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array
from scipy import ndimage

from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.transforms.preprocess import Preprocess
from medvit.types import Image

SIDES = {2: 28, 3: 14}
"""Maximum side of the reduced images, in pixels (2D) or voxels (3D), keyed by the number of dimensions."""


Scaling = Callable[[Float[Array, "c *s"]], Float[Array, "c *s"]]


def normalized(pixels: Float[Array, "c *s"]) -> Float[Array, "c *s"]:
    """Return pixels centered and divided by their norm, so that brightness and contrast do not count."""
    centered = pixels - pixels.mean()
    return np.asarray(centered / (np.linalg.norm(centered) or 1.0))


def unscaled(pixels: Float[Array, "c *s"]) -> Float[Array, "c *s"]:
    """Return pixels as they are, so that brightness and contrast count."""
    return pixels


def reduced_pixels(manifest: Manifest, names: Sequence[str] = (), scaling: Scaling = normalized) -> Float[Array, "n f"]:
    """Return the stored pixels of each image, reduced to at most 28 pixels or 14 voxels a side, as one row.

    Named channels are in the order of `names`; those that an image lacks are zero.
    """
    return _rows(manifest, lambda image: scaling(_reduced(arranged(image, names))))


def reduced_input(manifest: Manifest, preprocess: Preprocess, scaling: Scaling = normalized) -> Float[Array, "n f"]:
    """Return the same features of the preprocessed images, which are the input of a model."""
    return _rows(manifest, lambda image: scaling(_reduced(np.nan_to_num(preprocess.prepared(image).pixels.numpy()))))


def _rows(manifest: Manifest, features_of: Callable[[Image], Float[Array, "c *s"]]) -> Float[Array, "n f"]:
    return np.stack([features_of(load(manifest, row)).ravel() for row in manifest])


def arranged(image: Image, names: Sequence[str]) -> Float[Array, "c *s"]:
    """Return the stored pixels, with the channels in the order of `names` if they have names."""
    pixels = np.asarray(image.pixels, dtype=np.float32)
    if not names:
        return pixels
    found = np.zeros((len(names), *pixels.shape[1:]), np.float32)
    for name, channel in zip(image.channels, pixels, strict=True):
        if name in names:
            found[names.index(name)] = channel
    return found


def _reduced(pixels: Float[Array, "c *s"]) -> Float[Array, "c *s"]:
    side = SIDES[pixels.ndim - 1]
    factors = (1.0, *(side / size for size in pixels.shape[1:]))
    if set(factors) == {1.0}:
        return pixels
    return np.asarray(ndimage.zoom(pixels, factors, order=1, grid_mode=True, mode="nearest"))
