"""Interface of slide formats: one image at several scales, read in regions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.errors import DataError, UnreadableError, UnsupportedError

PLAUSIBLE_MPP = (0.02, 20.0)
"""Outside this range, a resolution is that of a screen or printer (72 dpi is 353 microns), not of a microscope."""
MAX_ANISOTROPY = 1.05
"""Largest aspect ratio of a pixel: tiles are square in pixels, so they must be square in microns."""


@dataclass(frozen=True)
class PyramidLevel:
    """One scale of a slide: its `shape` (H, W), and how many pixels of level 0 one of its pixels spans."""

    shape: tuple[int, int]
    downsample: float


class Pyramid(Protocol):
    """Open slide file. Levels start with the finest; label and macro images are not levels."""

    levels: tuple[PyramidLevel, ...]
    pixel_um: tuple[float, float] | None
    """Width and height of a level 0 pixel in microns, from the file; None if it has none."""
    tile_side: int
    """Side of the file's own tiles at level 0 in pixels, to choose an order of reading."""

    def region(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[Array, "h w 3"]:
        """Read the pixels of a region of a level, in its own pixels; the region is within the level."""

    def close(self) -> None:
        """Close the file."""


def microns_per_pixel(said: tuple[float, float] | None, given: float | None) -> float:
    """Return the microns per pixel of a slide of any format: from its header, else as given by the user.

    A header value that no microscope has, such as the 72 dpi that programs write as a default, is ignored in favor of
    the user's.

    Raises:
        UnsupportedError: If the pixels are not square.
        DataError: If neither gives it.
    """
    low, high = PLAUSIBLE_MPP
    if said is not None and all(low <= side <= high for side in said):
        if max(said) > MAX_ANISOTROPY * min(said):
            raise UnsupportedError(
                f"the slide's header gives pixels of {said[0]:.4g} x {said[1]:.4g} microns, which are not square; "
                "expected equal width and height in microns: resample the slide, or correct its header"
            )
        return said[0] if said[0] == said[1] else math.sqrt(said[0] * said[1])
    if given is not None:
        return given
    if said is None:
        raise DataError(
            "the slide has no microns per pixel; expected them in its header: give tiles.slide_mpp=... if you know them"
        )
    raise DataError(
        f"the slide's header gives {said[0]:.4g} x {said[1]:.4g} microns per pixel, which no microscope has; "
        f"expected {low:g} to {high:g}: give tiles.slide_mpp=... if you know them"
    )


def cut_short(height: int, width: int) -> UnreadableError:
    """Return the error for a level with missing pixels."""
    return UnreadableError(
        f"the pyramid level of {width} x {height} pixels is cut short or damaged, so the slide is incomplete; copy the "
        "file again"
    )
