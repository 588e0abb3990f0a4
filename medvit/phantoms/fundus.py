"""Synthetic color photograph of the retina, graded like diabetic retinopathy."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray as Array
from scipy.ndimage import gaussian_filter

CLASSES = ("none", "mild", "severe")
SIZE = 96
LESIONS = {"none": (0, 0, 0), "mild": (6, 1, 0), "severe": (10, 6, 9)}
"""Class -> approximate number of microaneurysms, hemorrhages and hard exudates."""


def fundus(
    generator: np.random.Generator, label: str, size: int = SIZE, *, lesion_scale: float = 1.0
) -> UInt8[Array, "h w 3"]:
    """Return one eye in RGB; `label` is one of `CLASSES`.

    Specks of pigment and uneven light, in all classes, look like faint lesions. `lesion_scale` multiplies the size of
    specks and lesions: at 1 a microaneurysm is hardly more than a pixel.
    """
    y, x = np.mgrid[0:size, 0:size] / (size - 1) * 2 - 1
    side = generator.choice([-1, 1])
    disc = (side * generator.uniform(0.42, 0.55), generator.normal(0, 0.05))
    color = np.array([0.78, 0.38, 0.16]) * generator.uniform(0.85, 1.15, 3)
    light = 1 - 0.35 * ((x - generator.normal(0, 0.2)) ** 2 + (y - generator.normal(0, 0.2)) ** 2)
    picture = color * light[..., None]
    macula = np.exp(-(np.hypot(x + side * 0.1, y - 0.04) ** 2) / 0.03)
    picture *= 1 - 0.3 * macula[..., None]
    cup = 1 / (1 + np.exp((np.hypot(x - disc[0], (y - disc[1]) / 1.1) - 0.15) * 45))
    picture += cup[..., None] * np.array([0.25, 0.4, 0.28])
    picture *= 1 - _vessels(generator, disc, size)[..., None] * np.array([0.35, 0.55, 0.5])
    dark, bright = _lesions(generator, label, np.hypot(x, y) < 0.85, lesion_scale)
    picture *= 1 - dark[..., None] * np.array([0.4, 0.65, 0.6])
    picture += bright[..., None] * np.array([0.2, 0.35, 0.12])
    picture = gaussian_filter(picture, (generator.uniform(0.4, 0.8),) * 2 + (0,))
    picture += generator.normal(0, 0.018, picture.shape)
    picture *= (np.hypot(x, y) < 0.96)[..., None]
    return np.clip(np.round(picture * 255), 0, 255).astype(np.uint8)


def _vessels(draw: np.random.Generator, disc: tuple[float, float], size: int) -> Float[Array, "h w"]:
    """Return an image of vessel arcades that leave the disc up and down and thin out as they branch."""
    ink = np.zeros((size, size))
    branches = [(disc[0], disc[1], angle + draw.normal(0, 0.15), 1.0) for angle in (-2.2, -0.9, 0.9, 2.2)]
    while branches:
        x, y, heading, width = branches.pop()
        for _ in range(70):
            x, y = x + 0.02 * np.cos(heading), y + 0.02 * np.sin(heading)
            heading += draw.normal(0, 0.09) - 0.035 * np.sign(np.sin(heading)) * np.sign(np.cos(heading))
            width *= 0.985
            row, column = int((y + 1) / 2 * (size - 1)), int((x + 1) / 2 * (size - 1))
            if not (0 <= row < size and 0 <= column < size):
                break
            ink[row, column] = max(ink[row, column], width)
            if width > 0.45 and draw.random() < 0.05:
                branches.append((x, y, heading + draw.choice([-0.6, 0.6]), width * 0.65))
    return np.clip(gaussian_filter(ink, 0.8) * 3.2, 0, 1)


def _lesions(
    draw: np.random.Generator, label: str, retina: Float[Array, "h w"], scale: float
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Return two images of lesions with values from 0 to 1: dark lesions and bright lesions."""
    specks = _spots(draw, retina, draw.poisson(4), 0.7 * scale) * 0.35
    small, large, exudates = (draw.poisson(mean) for mean in LESIONS[label])
    dark = np.maximum.reduce(
        [specks, _spots(draw, retina, small, 0.8 * scale), _spots(draw, retina, large, 1.7 * scale)]
    )
    return dark, _spots(draw, retina, exudates, 1.0 * scale)


def _spots(draw: np.random.Generator, retina: Float[Array, "h w"], num_spots: int, sigma: float) -> Float[Array, "h w"]:
    points = np.zeros(retina.shape)
    rows, columns = np.nonzero(retina)
    for index in draw.integers(0, len(rows), num_spots):
        points[rows[index], columns[index]] = draw.uniform(0.45, 0.9)
    return np.clip(gaussian_filter(points, sigma) * 2 * np.pi * sigma**2, 0, 1)
