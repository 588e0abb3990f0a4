"""Interface of slide formats: one image at several resolutions, read by region."""

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
    """One resolution of a slide: its `shape` (H, W), and the number of level 0 pixels that one of its pixels spans."""

    shape: tuple[int, int]
    downsample: float


class Pyramid(Protocol):
    """Open slide file.

    Levels are ordered from the highest resolution; label and macro images are not levels.
    """

    levels: tuple[PyramidLevel, ...]
    pixel_um: tuple[float, float] | None
    """Width and height of a level 0 pixel in microns; None if the file does not state them."""
    tile_side: int
    """Side of the file's own tiles at level 0 in pixels, to choose an order of reading."""

    def region(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[Array, "h w 3"]:
        """Read the pixels of a region, given in pixels of the level; the region must be within the level."""

    def close(self) -> None:
        """Close the file."""


def microns_per_pixel(stated: tuple[float, float] | None, given: float | None) -> float:
    """Return the microns per pixel of a slide: from its header (`stated`), else as given by the user.

    A header value that no microscope has, such as the default of 72 dpi that programs write, is ignored, and the value
    given by the user is used.

    Raises:
        UnsupportedError: If the pixels are not square.
        DataError: If neither the header nor the user gives a value.
    """
    low, high = PLAUSIBLE_MPP
    if stated is not None and all(low <= side <= high for side in stated):
        if max(stated) > MAX_ANISOTROPY * min(stated):
            raise UnsupportedError(
                f"the slide's header gives pixels of {stated[0]:.4g} x {stated[1]:.4g} microns, which are not square; "
                "expected equal width and height in microns: resample the slide, or correct its header"
            )
        return stated[0] if stated[0] == stated[1] else math.sqrt(stated[0] * stated[1])
    if given is not None:
        return given
    if stated is None:
        raise DataError(
            "the slide has no microns per pixel; expected them in its header: give tiles.slide_mpp=... if you know them"
        )
    raise DataError(
        f"the slide's header gives {stated[0]:.4g} x {stated[1]:.4g} microns per pixel, which no microscope has; "
        f"expected {low:g} to {high:g}: give tiles.slide_mpp=... if you know them"
    )


def cut_short(height: int, width: int) -> UnreadableError:
    """Return the error for a level with missing pixels."""
    return UnreadableError(
        f"the pyramid level of {width} x {height} pixels is cut short or damaged, so the slide is incomplete; copy the "
        "file again"
    )
