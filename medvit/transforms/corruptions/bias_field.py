"""Bias field: the sensitivity of an MR coil varies smoothly over the image."""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import MR, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage

DEGREE = 3


def with_bias_field(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return the pixels times the exponential of a random polynomial, whose mean is 0."""
    shape = image.pixels.shape[1:]
    axes = [np.linspace(-1.0, 1.0, side, dtype=np.float32) for side in shape]
    field = np.zeros(shape, np.float32)
    for powers in itertools.product(range(DEGREE + 1), repeat=len(shape)):
        if 0 < sum(powers) <= DEGREE:
            term: Array = np.full((1,) * len(shape), generator.uniform(-1.0, 1.0), np.float32)
            for axis, power in enumerate(powers):
                term = term * (axes[axis] ** power).reshape([-1 if one == axis else 1 for one in range(len(shape))])
            field += term
    field -= field.mean()
    return image.pixels * np.exp(np.float32(level) * field / max(float(np.abs(field).max()), 1e-6))


CORRUPTION = Corruption(
    name="bias_field",
    title="Bias field",
    meaning="Largest logarithm of the factor by which the field changes the signal: 0.69 is a factor of 2.",
    levels=(0.2, 0.4, 0.6, 0.85, 1.2),
    change=with_bias_field,
    modalities=MR,
)
