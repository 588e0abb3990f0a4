"""Scale bar of a picture: a line of a round length, with the length next to it."""

from __future__ import annotations

import math

from matplotlib import patheffects
from matplotlib.axes import Axes

OUTLINE = (patheffects.withStroke(linewidth=2.0, foreground="black"),)
"""Black outline of letters, which keeps them readable on bright pixels."""


def draw_scale_bar(axes: Axes, width: float, columns: int, rows: int, unit: str) -> None:
    """Draw a bar of a round length, about a quarter of the width of the image, with its length."""
    length = round_length(width / 4)
    shown = length / width * columns
    x, y = columns * 0.96 - 0.5, rows * 0.95 - 0.5
    line = axes.plot([x - shown, x], [y, y], color="white", linewidth=2, solid_capstyle="butt")[0]
    line.set_path_effects([patheffects.withStroke(linewidth=4, foreground="black")])
    axes.text(
        x, y - rows * 0.02, length_text(length, unit), color="white", fontsize=7, ha="right", va="bottom",
        path_effects=OUTLINE,
    )  # fmt: skip
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)


def round_length(length: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is at most `length`."""
    power = 10.0 ** math.floor(math.log10(length))
    return power * max(step for step in (1, 2, 5) if step * power <= length * (1 + 1e-9))


def length_text(length: float, unit: str) -> str:
    """Return a length with its unit; lengths below 1 mm are in micrometers."""
    return f"{1000 * length:g} µm" if unit == "mm" and length < 1 else f"{length:g} {unit}"
