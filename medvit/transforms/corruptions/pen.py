"""Pen marks on the glass of a slide."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.transforms.corruptions import PATHOLOGY, Corruption
from medvit.transforms.corruptions.scaled_image import ScaledImage

MOST = 5
INKS = ((0.05, 0.05, 0.08), (0.05, 0.12, 0.55), (0.02, 0.35, 0.15))
"""Transmitted light of black, blue and green ink, as a share of the light of the lamp."""
WIDTH = 0.03
"""Width of a line, as a share of the shorter side of the image."""


def with_pen_marks(image: ScaledImage, level: float, generator: np.random.Generator) -> Float[Array, "3 h w"]:
    """Return the pixels below `level` curved lines of one ink, which lets little of the tissue shine through."""
    from PIL import Image as Picture
    from PIL import ImageDraw

    height, width = image.pixels.shape[1:]
    ink = np.array(INKS[int(generator.integers(len(INKS)))], np.float32)[:, None, None]
    canvas = Picture.new("L", (width, height))
    for number in range(MOST):
        ends = generator.random((3, 2)) * (width, height)
        if number < level:
            share = np.linspace(0.0, 1.0, 40)[:, None]
            curve = (1 - share) ** 2 * ends[0] + 2 * share * (1 - share) * ends[1] + share**2 * ends[2]
            line = [tuple(point) for point in curve.tolist()]
            thick = max(1, round(WIDTH * min(height, width)))
            ImageDraw.Draw(canvas).line(line, fill=255, width=thick, joint="curve")
    cover = np.asarray(canvas, np.float32)[None] / np.float32(255.0)
    return image.pixels * (1.0 - cover) + cover * ink * (0.6 + 0.4 * image.pixels)


CORRUPTION = Corruption(
    name="pen",
    title="Pen marks",
    meaning="Number of lines.",
    levels=(1, 2, 3, 4, 5),
    change=with_pen_marks,
    modalities=PATHOLOGY,
    kinds=("image",),
    is_for_color=True,
    is_over_background=True,
)
