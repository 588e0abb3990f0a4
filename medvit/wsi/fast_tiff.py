"""Fast reading of TIFF slides by tifffile instead of OpenSlide, if both decode the same pixels.

OpenSlide paints each region on a transparent canvas; cutting the region out of decoded tiles is six times as fast. In a
generic TIFF, OpenSlide reads only the first image, rotates each tile by itself, and supports few compressions. Generic
TIFF is therefore read by tifffile, and OpenSlide is used only to confirm that both decode the same pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from medvit.errors import DataError, UnsupportedError
from medvit.wsi.openslide_backend import OpenSlidePyramid, vendor
from medvit.wsi.pyramid import Pyramid
from medvit.wsi.tiff_backend import TiffPyramid
from medvit.wsi.turned import UPRIGHT, TurnedPyramid

GENERIC = "generic-tiff"
"""OpenSlide's name of generic tiled TIFF."""
APERIO = "aperio"
"""OpenSlide's name of the only vendor format whose levels are pages of one image each, in whole tiles."""
MAX_DIFFERENCE = 2
"""Maximum difference of a pixel between two JPEG decoders, in gray levels. If the decoders interpolate color, this
limit applies to the mean difference instead.
"""
PROBE = 64
"""Side of the compared region in the middle of each level, in pixels."""

Verdict = Literal["same", "similar", "different", "unknown"]


def of_maker(path: Path, maker: str) -> Pyramid:
    """Open a slide in the format of a vendor (`maker`).

    If tifffile decodes the same pixels as OpenSlide, it is used, because it is faster; otherwise, OpenSlide is used.

    Raises:
        UnsupportedError: If the two decoders give different images.
    """
    slow = OpenSlidePyramid(path)
    if maker != APERIO:
        return slow
    try:
        fast = TiffPyramid(path)
    except DataError:
        return slow  # a compression or color of this vendor that only OpenSlide supports
    is_plain = fast.is_tiled and not fast.is_sparse and fast.orientation == UPRIGHT
    verdict = _verdict(slow, fast) if is_plain and _shapes(slow) == _shapes(fast) else "unknown"
    if verdict == "different":
        slow.close()
        fast.close()
        raise _disagreement()
    if verdict != "same":
        fast.close()
        return slow
    fast.levels, fast.pixel_um, fast.tile_side = slow.levels, slow.pixel_um, slow.tile_side
    slow.close()
    return fast


def plain(path: Path) -> Pyramid:
    """Open a slide that is a generic TIFF.

    Raises:
        UnsupportedError: If the slide has unsupported properties, or OpenSlide decodes it to a different image.
    """
    fast = TiffPyramid(path)
    if fast.orientation != UPRIGHT:
        return TurnedPyramid(fast, fast.orientation)  # OpenSlide rotates tile by tile
    if not fast.is_first or vendor(path) != GENERIC or (slow := _openslide(path)) is None:
        return fast
    verdict = _verdict(slow, fast)
    if _shapes(slow) == _shapes(fast):
        fast.levels = slow.levels
    slow.close()
    if verdict == "different":
        fast.close()
        raise _disagreement()
    return fast


def _openslide(path: Path) -> OpenSlidePyramid | None:
    """Open the slide through OpenSlide; None if OpenSlide lacks a decoder for it."""
    import openslide

    try:
        return OpenSlidePyramid(path)
    except openslide.OpenSlideError:
        return None


def _shapes(pyramid: Pyramid) -> list[tuple[int, int]]:
    return [level.shape for level in pyramid.levels]


def _verdict(slow: OpenSlidePyramid, fast: TiffPyramid) -> Verdict:
    """Return the result of comparing the pixels of two decoders, for the levels that both have."""
    known = {shape: number for number, shape in enumerate(_shapes(slow))}
    pairs = [(known[shape], number) for number, shape in enumerate(_shapes(fast)) if shape in known]
    found = {_verdict_at(slow, fast, *pair) for pair in pairs}
    order: tuple[Verdict, ...] = ("different", "unknown", "similar", "same")
    return next((verdict for verdict in order if verdict in found), "unknown")


def _verdict_at(slow: OpenSlidePyramid, fast: TiffPyramid, slow_level: int, fast_level: int) -> Verdict:
    height, width = fast.levels[fast_level].shape
    rows, columns = min(PROBE, height), min(PROBE, width)
    place = ((width - columns) // 2, (height - rows) // 2, columns, rows)
    try:
        one, other = slow.region(slow_level, *place), fast.region(fast_level, *place)
    except DataError:
        return "unknown"  # reading it later raises the error
    apart = np.abs(one.astype(np.int16) - other)
    if apart.max() <= MAX_DIFFERENCE:
        return "same"
    return "similar" if fast.is_lossy and apart.mean() <= MAX_DIFFERENCE else "different"


def _disagreement() -> UnsupportedError:
    return UnsupportedError(
        "a TIFF slide that tifffile and OpenSlide decode to different pixels, so it is unknown which are right; "
        "expected the same pixels from both: convert it to RGB in JPEG or deflate"
    )
