"""Speckle: multiplicative noise of coherent waves, as in ultrasound and optical coherence tomography."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import TOMOGRAPHS, ULTRASOUND, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage


def add_speckle(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return the pixels, each multiplied by 1 plus noise; the channels of a gray image get the same noise."""
    noise = generator.standard_normal(image.pixels.shape[1:], np.float32)
    return image.pixels * (1.0 + np.float32(level) * noise)


CORRUPTION = Corruption(
    name="speckle",
    title="Speckle",
    meaning="Standard deviation of the noise, as a share of the value of a pixel.",
    levels=(0.1, 0.2, 0.3, 0.4, 0.55),
    change=add_speckle,
    modalities=(*ULTRASOUND, *TOMOGRAPHS),
)
