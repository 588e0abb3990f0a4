"""Missing slices: slices that were not transferred, and are interpolated between their neighbors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage


def without_slices(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return the volume with a share of its slices, but not the first and last, interpolated linearly."""
    assert image.slice_axis is not None
    slices = np.moveaxis(image.pixels, 1 + image.slice_axis, 0)
    count = len(slices)
    lost = np.sort(1 + generator.permutation(max(0, count - 2))[: round(level * count)])
    kept = np.setdiff1d(np.arange(count), lost)
    made = slices.copy()
    for number in lost:
        after = int(np.searchsorted(kept, number))
        one, other = kept[after - 1], kept[after]
        share = np.float32((number - one) / (other - one))
        made[number] = (1.0 - share) * slices[one] + share * slices[other]
    return np.moveaxis(made, 0, 1 + image.slice_axis)


CORRUPTION = Corruption(
    name="missing_slices",
    title="Missing slices",
    meaning="Share of the slices that are missing.",
    levels=(0.1, 0.2, 0.35, 0.5, 0.7),
    change=without_slices,
    kinds=("volume",),
)
