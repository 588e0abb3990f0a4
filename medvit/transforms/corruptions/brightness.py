"""Lower brightness: underexposure, or a low gain."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import CAMERAS, OTHER, TOMOGRAPHS, ULTRASOUND, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage


def darker(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return pixels that are darker by a share of their value within the range."""
    return image.pixels - np.float32(level) * image.within


CORRUPTION = Corruption(
    name="brightness",
    title="Lower brightness",
    meaning="Share by which the values shrink.",
    levels=(0.1, 0.2, 0.35, 0.5, 0.65),
    change=darker,
    modalities=(*ULTRASOUND, *TOMOGRAPHS, *CAMERAS, *OTHER),
)
