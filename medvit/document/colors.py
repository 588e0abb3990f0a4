"""Colors of classes on pictures, the same on cards and in reports."""

from __future__ import annotations

from collections.abc import Sequence

PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
"""Colors of classes that people with color blindness can distinguish (Okabe and Ito 2008)."""


def class_colors(classes: Sequence[str]) -> dict[str, str]:
    """Return the color of each class; the first class is the background and has none."""
    return {name: color_of(number) for number, name in enumerate(classes) if number}


def color_of(number: int) -> str:
    """Return the color of a class by its number in the label map."""
    return PALETTE[(number - 1) % len(PALETTE)]
