"""JPEG compression of a two-dimensional image."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import CAMERAS, OTHER, TOMOGRAPHS, ULTRASOUND, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage


def compressed(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "c h w"]:
    """Return the pixels with the errors of a JPEG file of 8 bits over the range; values beyond it remain there."""
    within = image.within
    is_color = len(within) == 3
    channels = [within] if is_color else [within[n : n + 1] for n in range(len(within))]
    found = np.concatenate([_decoded(channel, quality=int(level)) for channel in channels])
    return image.pixels + found - np.rint(within * 255.0) / np.float32(255.0)


def _decoded(pixels: Float[Array, "c h w"], *, quality: int) -> Float[Array, "c h w"]:
    from PIL import Image as Picture

    stored = np.rint(pixels * 255.0).astype(np.uint8)
    file = io.BytesIO()
    Picture.fromarray(stored[0] if len(stored) == 1 else np.moveaxis(stored, 0, -1)).save(file, "JPEG", quality=quality)
    with Picture.open(file) as picture:
        found = np.asarray(picture, np.float32) / np.float32(255.0)
    return found[None] if found.ndim == 2 else np.moveaxis(found, -1, 0)


CORRUPTION = Corruption(
    name="jpeg",
    title="JPEG",
    meaning="Quality of the compression, from 1 (worst) to 95.",
    levels=(50, 30, 15, 10, 7),
    change=compressed,
    modalities=(*ULTRASOUND, *TOMOGRAPHS, *CAMERAS, *OTHER),
    kinds=("image",),
)
