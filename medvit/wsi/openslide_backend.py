"""Slides through OpenSlide: SVS, NDPI, MRXS, SCN, BIF, Philips, Trestle and generic tiled TIFF."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.errors import UnreadableError
from medvit.wsi.pyramid import PyramidLevel, cut_short

CACHE_BYTES = 2**27
"""Cache size for the decoded tiles of all slides of a process."""
WHITE = (255, 255, 255)
MANY_DIGITS = 6
"""A number with at least this many digits may identify a slide or a patient."""


@cache
def _cache(process: int) -> Any:
    """Return the cache shared by all slides of a process, which may have hundreds open."""
    import openslide

    return openslide.OpenSlideCache(CACHE_BYTES)


def vendor(path: Path) -> str:
    """Return OpenSlide's name of the format of a file; empty if OpenSlide does not recognize the file."""
    import openslide

    return openslide.OpenSlide.detect_format(path) or ""


def maker_texts(path: Path) -> dict[str, str]:
    """Return the properties of a slide that its vendor defines, keyed by name.

    Numbers that are only measurements are excluded.

    Raises:
        UnreadableError: If OpenSlide cannot open the slide.
    """
    import openslide

    try:
        with openslide.OpenSlide(path) as slide:
            known = dict(slide.properties)
    except openslide.OpenSlideError:
        raise UnreadableError("OpenSlide recognizes the format of the slide but cannot open it") from None
    return {key: text for key, text in known.items() if not key.startswith("openslide.") and not is_measure(text)}


def is_measure(text: str) -> bool:
    """Return whether a text is a number that is too short to identify a slide or a patient."""
    return re.fullmatch(r"[-+\d.eE]*", text) is not None and len(re.sub(r"\D", "", text)) < MANY_DIGITS


class OpenSlidePyramid:
    """Slide opened by OpenSlide; areas that were not scanned have the background color of the file, or white."""

    def __init__(self, path: Path) -> None:
        import openslide

        self._slide = openslide.OpenSlide(path)
        self._slide.set_cache(_cache(os.getpid()))
        known = self._slide.properties
        sizes = zip(self._slide.level_dimensions, self._slide.level_downsamples, strict=True)
        self.levels = tuple(PyramidLevel((height, width), float(factor)) for (width, height), factor in sizes)
        self.pixel_um = _pixel_um(known.get(openslide.PROPERTY_NAME_MPP_X), known.get(openslide.PROPERTY_NAME_MPP_Y))
        self.tile_side = int(known.get("openslide.level[0].tile-width", 256))
        background = known.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR)
        self._background = np.array(tuple(bytes.fromhex(background)) if background else WHITE, np.float32)

    def region(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[Array, "h w 3"]:
        """Read the pixels of a region of a level.

        Raises:
            UnreadableError: If the file is damaged there.
        """
        import openslide

        factor = self.levels[level].downsample
        try:
            pixels = np.asarray(self._slide.read_region((round(x * factor), round(y * factor)), level, (width, height)))
        except openslide.OpenSlideError:
            raise cut_short(*self.levels[level].shape) from None
        color, alpha = pixels[..., :3], pixels[..., 3:]
        if alpha.min() == 255:
            return color
        share = alpha.astype(np.float32) / 255.0
        return np.asarray(np.rint(color * share + self._background * (1.0 - share)), np.uint8)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def _pixel_um(horizontal: str | None, vertical: str | None) -> tuple[float, float] | None:
    return (float(horizontal), float(vertical)) if horizontal and vertical else None
