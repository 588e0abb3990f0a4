"""Ghosting in MR: periodic motion, such as breathing, adds shifted copies along the phase-encoding axis."""

from __future__ import annotations

import numpy as np
from jaxtyping import Complex, Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import MR, Corruption
from medvit.transforms.corruptions.mr_motion import in_k_space
from medvit.transforms.corruptions.scaled_image import ScaledImage


def with_ghosts(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return the image of a k-space in which the strength of the lines varies periodically."""
    period, phase = int(generator.integers(2, 6)), generator.uniform(0.0, 2.0 * np.pi)

    def modulated(lines: Float[Array, "n"]) -> Complex[Array, "n"]:
        number = np.rint(lines * len(lines))
        # The lines at the center, which contain the mean, do not vary: ghosts are copies of edges.
        return 1.0 + level * np.cos(2.0 * np.pi * number / period + phase) * (np.abs(number) > 1) + 0j

    return in_k_space(image, modulated)


CORRUPTION = Corruption(
    name="ghosting",
    title="Ghosting",
    meaning="Variation of the signal between the lines of k-space, as a share of the signal.",
    levels=(0.3, 0.6, 0.9, 1.2, 1.6),
    change=with_ghosts,
    modalities=MR,
)
