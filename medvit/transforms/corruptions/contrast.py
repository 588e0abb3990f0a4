"""Lower contrast: differences within the range shrink, as with another tube voltage, exposure or phase of contrast."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage


def with_lower_contrast(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return pixels whose differences from the mean are smaller; beyond the range, all values shift by the same."""
    return image.pixels - np.float32(level) * (image.within - image.imaged_mean)


CORRUPTION = Corruption(
    name="contrast",
    title="Lower contrast",
    meaning="Share by which differences from the mean of the image shrink.",
    levels=(0.2, 0.35, 0.5, 0.6, 0.7),
    change=with_lower_contrast,
)
