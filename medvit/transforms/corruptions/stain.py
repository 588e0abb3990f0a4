"""Stain of H&E: another laboratory uses other amounts of hematoxylin and eosin."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import PATHOLOGY, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage
from medvit.transforms.stain import StainChange, apply_stain


def restained(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "3 h w"]:
    """Return the pixels with more of one stain and less of the other, drawn for each image (Tellez et al., 2019)."""
    sign = 1.0 if generator.random() < 0.5 else -1.0
    change = StainChange((1.0 + sign * level, 1.0 - sign * level, 1.0), (0.0, 0.0, 0.0))
    within = image.within
    return image.pixels + apply_stain(torch.from_numpy(within)[None], change)[0].numpy() - within


CORRUPTION = Corruption(
    name="stain",
    title="Stain",
    meaning="Share by which the amount of one stain grows, and that of the other shrinks.",
    levels=(0.15, 0.3, 0.45, 0.6, 0.8),
    change=restained,
    modalities=PATHOLOGY,
    kinds=("image",),
    is_for_color=True,
)
