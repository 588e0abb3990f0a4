"""Slides stored rotated or mirrored, as (274) Orientation declares, and presented upright."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.wsi.pyramid import Pyramid

UPRIGHT = 1
FLIPS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""Steps to upright per orientation (TIFF 6.0, section 8): swap rows and columns, then flip rows, flip columns."""


class TurnedPyramid:
    """Upright view of a slide that is stored rotated or mirrored."""

    def __init__(self, stored: Pyramid, orientation: int) -> None:
        self._stored = stored
        self._is_swapped, self._flips_rows, self._flips_columns = FLIPS[orientation]
        self.levels, self.pixel_um, self.tile_side = stored.levels, stored.pixel_um, stored.tile_side
        if self._is_swapped:
            self.levels = tuple(replace(level, shape=level.shape[::-1]) for level in stored.levels)
            self.pixel_um = None if stored.pixel_um is None else (stored.pixel_um[1], stored.pixel_um[0])

    def region(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[Array, "h w 3"]:
        """Read the pixels of a region of a level, upright."""
        rows, columns = self.levels[level].shape
        left = columns - x - width if self._flips_columns else x
        top = rows - y - height if self._flips_rows else y
        box = (top, left, height, width) if self._is_swapped else (left, top, width, height)
        pixels = self._stored.region(level, *box)
        pixels = pixels.swapaxes(0, 1) if self._is_swapped else pixels
        pixels = pixels[::-1] if self._flips_rows else pixels
        return np.ascontiguousarray(pixels[:, ::-1] if self._flips_columns else pixels)

    def close(self) -> None:
        """Close the file."""
        self._stored.close()
