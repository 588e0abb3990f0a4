"""Lower resolution: the image is reduced and enlarged again."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage
from medvit.transforms.preprocess import resize


def with_lower_resolution(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return the pixels with fewer details in the plane of the image or slice."""
    return resampled(image, image.plane_axes, level)


def resampled(image: ScaledImage, axes: tuple[int, ...], factor: float) -> Float[Array, "c *s"]:
    """Return the pixels after reducing some axes by a factor, to at least two pixels, and enlarging them again."""
    shape = image.pixels.shape[1:]
    reduced = tuple(max(2, round(side / factor)) if 1 + n in axes else side for n, side in enumerate(shape))
    return np.asarray(resize(resize(torch.from_numpy(image.pixels), reduced), shape).numpy())


CORRUPTION = Corruption(
    name="resolution",
    title="Lower resolution",
    meaning="Factor by which the pixels become larger.",
    levels=(1.5, 2.0, 3.0, 4.0, 6.0),
    change=with_lower_resolution,
)
