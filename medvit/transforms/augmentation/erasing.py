"""Random erasing of a box of a training crop (Zhong et al., AAAI 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medvit.config import Config, Share

ERASED = (0.02, 0.33)
"""Smallest and largest erased share of a crop."""
STRETCH = 3.3
"""Largest ratio of the sides of the box, relative to those of the crop."""


class ErasingAugmentation(Config):
    """Options of random erasing."""

    erasing: Share = 0.0
    """Probability of filling a random box, of 2 to 33 % of the crop, with noise that has the mean and standard
    deviation of the crop.
    """


@dataclass(frozen=True)
class Erasure:
    """Drawn box: sides as fractions of the crop, position as fractions of the possible range, and noise seed."""

    sides: tuple[float, ...]
    place: tuple[float, ...]
    noise_seed: int


def draw_erasure(config: ErasingAugmentation, generator: np.random.Generator, *, ndim: int) -> Erasure | None:
    """Draw the box to erase from a crop with `ndim` axes; None if nothing is erased."""
    happens, share = generator.random() < config.erasing, generator.uniform(*ERASED)
    ratios = np.exp(generator.uniform(-0.5, 0.5, ndim) * np.log(STRETCH))
    sides = np.minimum(share ** (1 / ndim) * ratios / np.prod(ratios) ** (1 / ndim), 1.0)
    place, seed = generator.random(ndim), int(generator.integers(2**31))
    return Erasure(tuple(sides.tolist()), tuple(place.tolist()), seed) if happens else None


def apply_erasure(pixels: Float[Tensor, "c *s"], erasure: Erasure | None) -> Float[Tensor, "c *s"]:
    """Return the crop with the drawn box filled with noise; without a box, return the crop unchanged."""
    if erasure is None:
        return pixels
    box: list[slice] = [slice(None)]
    for size, share, place in zip(pixels.shape[1:], erasure.sides, erasure.place, strict=True):
        side = max(1, round(share * size))
        start = int(place * (size - side + 1))
        box.append(slice(start, start + side))
    filled = pixels.clone()
    inside = filled[tuple(box)]
    noise = torch.randn(inside.shape, generator=torch.Generator().manual_seed(erasure.noise_seed))
    inside.copy_(pixels.mean() + noise * pixels.std(correction=0))
    return filled
