"""Noise of the electronics: normal, and in MR images Rician, as in the magnitude of a complex signal.

Gudbjartsson and Patz, Magnetic Resonance in Medicine 1995, derive the Rician distribution.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import CT, EMISSION, MR, OTHER, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage


def add_noise(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return the pixels with noise whose standard deviation is `level` times the range."""
    real, imaginary = (np.float32(level) * generator.standard_normal(image.pixels.shape, np.float32) for _ in range(2))
    if image.modality not in MR or image.pixels.min() < 0.0:
        return image.pixels + real
    return np.hypot(image.pixels + real, imaginary)


CORRUPTION = Corruption(
    name="noise",
    title="Noise",
    meaning="Standard deviation of the noise, as a share of the range; in CT, 0.1 is 40 HU.",
    levels=(0.04, 0.08, 0.12, 0.18, 0.26),
    change=add_noise,
    modalities=(*CT, *MR, *EMISSION, *OTHER),
)
