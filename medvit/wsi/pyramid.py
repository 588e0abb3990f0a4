"""What a slide format gives: one picture at several scales, read in regions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.errors import DataError, UnreadableError, UnsupportedError

PLAUSIBLE_MPP = (0.02, 20.0)
"""Beyond these, a resolution is that of a screen or a printer (72 dots an inch is 353 microns), not of a microscope."""
MAX_ANISOTROPY = 1.05
"""The largest ratio of a pixel's sides: tiles are square in pixels, so they must be so in microns."""


@dataclass(frozen=True)
class PyramidLevel:
    """One scale of a slide: its `shape` (H, W), and how many pixels of level 0 one of its pixels spans."""

    shape: tuple[int, int]
    downsample: float


class Pyramid(Protocol):
    """An open slide file. Levels go from the finest on; label and macro pictures are no levels."""

    levels: tuple[PyramidLevel, ...]
    pixel_um: tuple[float, float] | None
    """Width and height in microns of a pixel of level 0, as the file says; none where it does not."""
    tile_side: int
    """Pixels of a side of the file's own tiles at level 0, by which an order of reading may go."""

    def region(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[Array, "h w 3"]:
        """Pixels of a region of a level, in its own pixels; it lies within the level."""

    def close(self) -> None:
        """Lets go of the file."""


def microns_per_pixel(said: tuple[float, float] | None, given: float | None) -> float:
    """Microns per pixel of a slide of any format: what its header says, else what the user gives.

    What a header says that no microscope has, as the 72 dots an inch that programs write for want of better, is not
    believed, so that the user's word counts.

    Raises:
        UnsupportedError: If the pixels are not square.
        DataError: If nobody says it.
    """
    low, high = PLAUSIBLE_MPP
    if said is not None and all(low <= side <= high for side in said):
        if max(said) > MAX_ANISOTROPY * min(said):
            raise UnsupportedError(
                f"the slide's header says pixels of {said[0]:.4g} x {said[1]:.4g} microns, which are not square; "
                "expected as many microns across as down: resample the slide, or correct its header"
            )
        return said[0] if said[0] == said[1] else math.sqrt(said[0] * said[1])
    if given is not None:
        return given
    if said is None:
        raise DataError(
            "the slide does not say its microns per pixel; expected them in its header: give tiles.slide_mpp=... "
            "if you know them"
        )
    raise DataError(
        f"the slide's header says {said[0]:.4g} x {said[1]:.4g} microns per pixel, which no microscope has; expected "
        f"{low:g} to {high:g}: give tiles.slide_mpp=... if you know them"
    )


def cut_short(height: int, width: int) -> UnreadableError:
    """The error of a level whose pixels are not all in the file."""
    return UnreadableError(
        f"the pyramid level of {width} x {height} pixels is cut short or damaged, so the slide is not whole; copy the "
        "file again"
    )
