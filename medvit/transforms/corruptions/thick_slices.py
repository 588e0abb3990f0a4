"""Thicker slices: neighboring slices of a volume are averaged."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import Corruption
from medvit.transforms.corruptions.resolution import resampled
from medvit.transforms.corruptions.scaled_image import ScaledImage


def with_thick_slices(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return the volume as if it had fewer, thicker slices, interpolated to the original ones."""
    assert image.slice_axis is not None
    return resampled(image, (1 + image.slice_axis,), level)


CORRUPTION = Corruption(
    name="thick_slices",
    title="Thicker slices",
    meaning="Factor by which the slices become thicker.",
    levels=(1.5, 2.0, 3.0, 4.0, 6.0),
    change=with_thick_slices,
    kinds=("volume",),
)
