"""Vignette: a photograph that is dark toward its edges, as through a small pupil or an endoscope."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import FUNDUS, PHOTOS, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage

REACH = 0.3
"""Largest distance of the bright center from the center of the image, as a share of half of each side."""


def with_vignette(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c h w"]:
    """Return pixels that are darker by the square of their distance from a random point near the center."""
    center = generator.uniform(-REACH, REACH, 2)
    rows, columns = (np.linspace(-1.0, 1.0, side, dtype=np.float32) for side in image.pixels.shape[1:])
    distance = (rows[:, None] - center[0]) ** 2 + (columns[None] - center[1]) ** 2
    return image.pixels * np.clip(1.0 - np.float32(level) * distance, 0.0, 1.0)


CORRUPTION = Corruption(
    name="vignette",
    title="Vignette",
    meaning="Share by which a pixel one half side away from the center is darker.",
    levels=(0.25, 0.5, 0.75, 1.0, 1.5),
    change=with_vignette,
    modalities=(*FUNDUS, *PHOTOS),
    kinds=("image",),
)
