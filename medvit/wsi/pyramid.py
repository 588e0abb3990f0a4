"""What a slide format gives: one picture at several scales, read in regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.errors import UnreadableError


@dataclass(frozen=True)
class PyramidLevel:
    """One scale of a slide: its `shape` (H, W), and how many pixels of level 0 one of its pixels spans."""

    shape: tuple[int, int]
    downsample: float


class Pyramid(Protocol):
    """An open slide file. Levels go from the finest on; label and macro pictures are no levels."""

    levels: tuple[PyramidLevel, ...]
    mpp: float | None
    """Microns per pixel at level 0, as the file says; none where it does not."""
    tile_side: int
    """Pixels of a side of the file's own tiles at level 0, by which an order of reading may go."""

    def region(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[Array, "h w 3"]:
        """Pixels of a region of a level, in its own pixels; it lies within the level."""

    def close(self) -> None:
        """Lets go of the file."""


def cut_short(height: int, width: int) -> UnreadableError:
    """The error of a level whose pixels are not all in the file."""
    return UnreadableError(
        f"the pyramid level of {width} x {height} pixels is cut short or damaged, so the slide is not whole; copy the "
        "file again"
    )
