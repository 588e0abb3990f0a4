"""Overview image of a slide: a low-magnification view, and a copy with the tissue, ink and tiles found on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray as Array

from medvit.wsi.tiles import BLURRED, PEN
from medvit.wsi.tiling import Tiled

INK, BLUR, TILE = (235, 190, 0), (200, 40, 160), (40, 90, 200)
"""RGB colors of the marks."""
SHADE = 0.45


def draw(tiled: Tiled, path: Path) -> None:
    """Write the slide image next to a copy with dimmed glass, yellow ink and framed tiles (blurred: violet)."""
    from PIL import Image, ImageDraw

    plain = Image.fromarray(tiled.picture.transpose(1, 2, 0))
    shape = plain.size
    marked = Image.fromarray(_marked(tiled))
    pen = ImageDraw.Draw(marked)
    scale = shape[0] / tiled.width
    side = tiled.side * scale
    for (x, y), flags in zip(tiled.grid.xy, tiled.grid.flags, strict=True):
        color = BLUR if flags & BLURRED else INK if flags & PEN else TILE
        corner = (float(x) * scale, float(y) * scale)
        pen.rectangle((*corner, corner[0] + side - 1, corner[1] + side - 1), outline=color)
    both = Image.new("RGB", (2 * shape[0] + 8, shape[1]), "white")
    both.paste(plain, (0, 0))
    both.paste(marked, (shape[0] + 8, 0))
    path.parent.mkdir(exist_ok=True)
    both.save(path)


def _marked(tiled: Tiled) -> UInt8[Array, "h w 3"]:
    pixels = tiled.picture.transpose(1, 2, 0).astype(np.float32)
    pixels[~_sized(tiled.found.tissue, pixels.shape[:2])] *= SHADE
    pixels[_sized(tiled.found.ink, pixels.shape[:2])] = INK
    return pixels.astype(np.uint8)


def _sized(mask: Bool[Array, "g f"], shape: tuple[int, int]) -> Bool[Array, "h w"]:
    rows, columns = (np.arange(new) * old // new for old, new in zip(mask.shape, shape, strict=True))
    return mask[rows[:, None], columns[None]]
