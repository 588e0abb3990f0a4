"""Motion in MR: the patient moves while k-space is acquired, so that its lines disagree about the position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Complex, Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import MR, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage

DISPLACEMENTS = (0.03, 0.06)
"""Smallest and largest displacement, as a share of the side of the image along the phase-encoding axis."""


def moved_during_acquisition(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return the image of a k-space whose last lines were acquired after the patient had moved.

    The patient moves along the phase-encoding axis, which is the first one of the plane.
    """
    distance = generator.uniform(*DISPLACEMENTS) * (1.0 if generator.random() < 0.5 else -1.0)

    def displaced(lines: Float[Array, "n"]) -> Complex[Array, "n"]:
        return np.where(lines >= 0.5 - level, np.exp(-2j * np.pi * lines * len(lines) * distance), 1.0)

    return in_k_space(image, displaced)


def in_k_space(
    image: ScaledImage, factors_of: Callable[[Float[Array, "n"]], Complex[Array, "n"]]
) -> Float[Array, "c *s"]:
    """Return the image after the lines of its k-space are multiplied by complex factors.

    `factors_of` maps the frequencies of the lines, from -0.5 to 0.5 per pixel, to their factors.
    """
    from scipy import fft

    axis = image.plane_axes[0]
    lines = np.fft.fftfreq(image.pixels.shape[axis])
    factors = np.asarray(factors_of(lines), np.complex64)
    shape = [-1 if one == axis else 1 for one in range(image.pixels.ndim)]
    found = fft.ifft(fft.fft(image.pixels, axis=axis) * factors.reshape(shape), axis=axis)
    # A magnitude image has no sign; other images, as after a standardization, do.
    return np.asarray(np.abs(found) if image.pixels.min() >= 0.0 else found.real, np.float32)


CORRUPTION = Corruption(
    name="mr_motion",
    title="Motion (MR)",
    meaning="Share of the lines of k-space that are acquired after the movement.",
    levels=(0.3, 0.38, 0.43, 0.46, 0.48),
    change=moved_during_acquisition,
    modalities=MR,
)
