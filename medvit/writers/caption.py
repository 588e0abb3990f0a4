"""Caption of a picture: lines of names, each after a square of its color."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array

HEIGHT = 22
"""Height of a line in pixels."""
FONT_SIZE = 13
GAP = 6
"""Pixels between a square and its text, and between a text and the next square."""
BLACK, WHITE = (0, 0, 0), (255, 255, 255)

Color = tuple[int, int, int]


def caption(width: int, parts: Sequence[tuple[str, Color | None]]) -> UInt8[Array, "h w 3"]:
    """Return lines of text in black on white; a text with a color has a square of this color before it.

    Texts beyond `width` pixels begin a new line. A single text that is longer is cut off.
    """
    from PIL import Image, ImageDraw, ImageFont

    font, side = ImageFont.load_default(FONT_SIZE), HEIGHT - 2 * GAP
    placed: list[tuple[float, int, str, Color | None]] = []
    left, line = float(GAP), 0
    for text, color in parts:
        length = font.getlength(text) + (side + GAP if color is not None else 0)
        if placed and left + length > width:
            left, line = float(GAP), line + 1
        placed.append((left, line * HEIGHT, text, color))
        left += length + 2 * GAP
    picture = Image.new("RGB", (width, HEIGHT * (line + 1)), WHITE)
    draw = ImageDraw.Draw(picture)
    for left, top, text, color in placed:
        if color is not None:
            draw.rectangle((left, top + GAP, left + side, top + GAP + side), fill=color)
        start = left + (side + GAP if color is not None else 0)
        draw.text((start, top + HEIGHT / 2), text, fill=BLACK, font=font, anchor="lm")
    return np.asarray(picture)


def captioned(picture: UInt8[Array, "h w 3"], *parts: tuple[str, Color | None]) -> UInt8[Array, "k w 3"]:
    """Return a picture with its caption below."""
    return np.concatenate([picture, caption(picture.shape[1], parts)])
