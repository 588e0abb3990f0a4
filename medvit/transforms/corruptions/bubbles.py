"""Air bubbles below the cover glass of a slide: round areas out of focus, with a dark rim."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.augmentation.smoothing import smoothed
from medvit.transforms.corruptions import PATHOLOGY, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage

MOST = 5
RADII = (0.08, 0.22)
"""Smallest and largest radius, as a share of the shorter side of the image."""
RIM = 0.1
"""Width of the rim, as a share of the radius."""
DEFOCUS = 0.015
"""Standard deviation of the blur in a bubble, as a share of the shorter side of the image."""


def with_bubbles(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c h w"]:
    """Return the pixels below `level` bubbles."""
    height, width = image.pixels.shape[1:]
    side = min(height, width)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    inside = smoothed(torch.from_numpy(image.pixels), [DEFOCUS * side] * 2).numpy() * 0.8 + 0.2
    made = image.pixels.copy()
    for number in range(MOST):
        row, column = generator.random(2) * (height, width)
        radius = generator.uniform(*RADII) * side
        if number < level:
            distance = np.hypot(rows - row, columns - column) / radius
            made = np.where(distance < 1.0, inside, made)
            rim = np.clip(1.0 - np.abs(distance - 1.0) / RIM, 0.0, 1.0)
            made *= 1.0 - 0.75 * rim
    return np.asarray(made, np.float32)


CORRUPTION = Corruption(
    name="bubbles",
    title="Air bubbles",
    meaning="Number of bubbles.",
    levels=(1, 2, 3, 4, 5),
    change=with_bubbles,
    modalities=PATHOLOGY,
    kinds=("image",),
    is_over_background=True,
)
