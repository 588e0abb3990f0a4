"""Simple baseline: logistic regression on the pixels of small images, without any network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array
from scipy import ndimage

from medvit.curves.scores import ClassScores, patient_indices
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.types import Image

SIDES = {2: 28, 3: 14}
"""Maximum side of the reduced images, in pixels (2D) or voxels (3D), by number of dimensions."""


def regression_on_pixels(labeled: Manifest, scored: Manifest, label: str, *, strength: float) -> ClassScores:
    """Return the probabilities of images by a logistic regression on pixels, trained on labeled images.

    Images are reduced to at most 28 pixels or 14 voxels a side, and each is centered and divided by its norm.
    Named channels are in the order of their names; those that an image lacks are zero.
    `strength` is the inverse strength of the L2 penalty, `C` of scikit-learn.
    """
    from sklearn.linear_model import LogisticRegression

    classes = labeled.facts.classes[label]
    truth = np.array([classes.index(row.labels[label]) for row in labeled])
    names = sorted({name for row in labeled for name in row.channels})
    features, others = _features(labeled, names), _features(scored, names)
    scale = features.std() or 1.0
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000).fit(features / scale, truth)
    probabilities = np.zeros((len(others), len(classes)))
    probabilities[:, model.classes_] = model.predict_proba(others / scale)
    found = np.array([classes.index(row.labels[label]) for row in scored])
    return ClassScores(found, probabilities, patient_indices(scored.rows))


def _features(manifest: Manifest, names: Sequence[str]) -> Float[Array, "n f"]:
    return np.stack([_reduced(_arranged(load(manifest, row), names)).ravel() for row in manifest])


def _arranged(image: Image, names: Sequence[str]) -> Float[Array, "c *s"]:
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
    small = ndimage.zoom(pixels, factors, order=1, grid_mode=True, mode="nearest") if set(factors) != {1.0} else pixels
    centered = small - small.mean()
    return np.asarray(centered / (np.linalg.norm(centered) or 1.0))
