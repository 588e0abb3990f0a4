"""Shot noise: the number of photons that a detector or camera counts varies, as at a low dose or in poor light.

The Poisson distribution is replaced by a normal one of the same variance, so that all severities share their draws.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import CAMERAS, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage


def add_shot_noise(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return the pixels with noise whose variance is proportional to their value."""
    noise = generator.standard_normal(image.pixels.shape, np.float32)
    return image.pixels + np.float32(level) * np.sqrt(np.maximum(image.pixels, 0.0)) * noise


CORRUPTION = Corruption(
    name="shot_noise",
    title="Shot noise",
    meaning="Standard deviation of the noise at the upper end of the range, as a share of the range.",
    levels=(0.05, 0.08, 0.12, 0.18, 0.26),
    change=add_shot_noise,
    modalities=CAMERAS,
)
