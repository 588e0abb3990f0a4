"""Caption of a picture: a line of names, each after a square of its color."""

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
    """Return a line of text in black on white; a text with a color has a square of this color before it.

    Text beyond `width` pixels is cut off.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (width, HEIGHT), WHITE)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)
    left, middle, side = float(GAP), HEIGHT / 2, HEIGHT - 2 * GAP
    for text, color in parts:
        if color is not None:
            draw.rectangle((left, GAP, left + side, GAP + side), fill=color)
            left += side + GAP
        draw.text((left, middle), text, fill=BLACK, font=font, anchor="lm")
        left += draw.textlength(text, font=font) + 2 * GAP
    return np.asarray(picture)


def captioned(picture: UInt8[Array, "h w 3"], *parts: tuple[str, Color | None]) -> UInt8[Array, "k w 3"]:
    """Return a picture with its caption below."""
    return np.concatenate([picture, caption(picture.shape[1], parts)])
