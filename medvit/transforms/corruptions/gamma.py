"""Gamma: another display or detector curve, as between vendors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import EMISSION, MR, OTHER, TOMOGRAPHS, ULTRASOUND, XRAY, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage


def with_gamma(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return the pixels within the range to the power of `level`, or of its inverse, which is drawn for each image."""
    power = level if generator.random() < 0.5 else 1.0 / level
    within = image.within
    return image.pixels + within ** np.float32(power) - within


CORRUPTION = Corruption(
    name="gamma",
    title="Gamma",
    meaning="Exponent of the values within the range, or its inverse; half of the images get each of the two.",
    levels=(1.2, 1.4, 1.6, 1.9, 2.3),
    change=with_gamma,
    modalities=(*MR, *XRAY, *ULTRASOUND, *TOMOGRAPHS, *EMISSION, *OTHER),
)
