"""Motion blur: the patient, the eye or the camera moves in a straight line during the exposure."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import CAMERAS, CT, OTHER, TOMOGRAPHS, ULTRASOUND, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage


def moved(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c *s"]:
    """Return the mean of the pixels over a straight path, centered on each pixel, in a random direction."""
    from scipy.signal import fftconvolve

    angle = generator.uniform(0.0, math.pi)
    length = level * image.plane_side
    path = [
        length / image.spacing[axis - 1] * part
        for axis, part in zip(image.plane_axes, (math.sin(angle), math.cos(angle)), strict=True)
    ]
    kernel = line_kernel(path[0], path[1])
    shape, widths = [1] * image.pixels.ndim, [(0, 0)] * image.pixels.ndim
    for axis, side in zip(image.plane_axes, kernel.shape, strict=True):
        shape[axis], widths[axis] = side, (side // 2, side // 2)
    padded = np.pad(image.pixels, widths, mode="edge")
    return np.asarray(fftconvolve(padded, kernel.reshape(shape), mode="valid", axes=image.plane_axes), np.float32)


def line_kernel(rows: float, columns: float) -> Float[Array, "h w"]:
    """Return a filter of odd sides with equal weights along a centered line, `rows` and `columns` pixels long."""
    half = math.ceil(abs(rows) / 2.0), math.ceil(abs(columns) / 2.0)
    kernel = np.zeros((2 * half[0] + 3, 2 * half[1] + 3), np.float32)
    count = 2 * (half[0] + half[1]) + 3
    for share in (np.arange(4 * count) + 0.5) / (4 * count) - 0.5:
        row, column = half[0] + 1 + share * rows, half[1] + 1 + share * columns
        top, left = math.floor(row), math.floor(column)
        for along, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = (1.0 - abs(row - top - along)) * (1.0 - abs(column - left - across))
            if weight > 0.0:
                kernel[top + along, left + across] += weight
    return kernel / kernel.sum()


CORRUPTION = Corruption(
    name="motion_blur",
    title="Motion blur",
    meaning="Length of the movement during the exposure, as a share of the shorter side of the image.",
    levels=(0.02, 0.04, 0.06, 0.09, 0.13),
    change=moved,
    modalities=(*CT, *ULTRASOUND, *TOMOGRAPHS, *CAMERAS, *OTHER),
)
