"""Blur: a defocused lens, a large focal spot or a smooth reconstruction kernel."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.augmentation.smoothing import smoothed
from medvit.transforms.corruptions import Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage

FEWEST = 96
"""Number of pixels of the shorter side of an image below which the filter does not become smaller."""


def blurred(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return the pixels after a Gaussian filter within the plane of the image or slice."""
    sigmas = [0.0] * len(image.spacing)
    side = min(max(image.pixels.shape[axis], FEWEST) * image.spacing[axis - 1] for axis in image.plane_axes)
    for axis in image.plane_axes:
        sigmas[axis - 1] = level * side / image.spacing[axis - 1]
    return np.asarray(smoothed(torch.from_numpy(image.pixels), sigmas).numpy())


CORRUPTION = Corruption(
    name="blur",
    title="Blur",
    meaning="Standard deviation of the filter, as a share of the shorter side, which counts as at least 96 pixels.",
    levels=(0.004, 0.008, 0.012, 0.018, 0.026),
    change=blurred,
)
