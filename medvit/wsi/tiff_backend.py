"""Slides that are TIFF of no maker: plain and OME-TIFF through tifffile, in strips or tiles, decoded one by one."""

from __future__ import annotations

import logging
import math
import struct
from collections import OrderedDict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.errors import UnreadableError, UnsupportedError
from medvit.wsi.pyramid import PyramidLevel, cut_short

CACHE_BYTES = 2**27
"""Decoded strips and tiles of all slides of a process kept at most."""
MICRONS = {2: 25_400.0, 3: 10_000.0}
"""Microns in the unit of (296) ResolutionUnit: inch, centimeter (TIFF 6.0, section 8)."""
PLAUSIBLE_MPP = (0.02, 20.0)
"""Beyond these, a resolution is that of a screen or a printer (72 dots an inch is 353 microns), not of a microscope."""


def opened(path: Path) -> Any:
    """An open TIFF of tifffile, whose warnings, which quote file names, are not heard."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile.TiffFile(path)


class TiffPyramid:
    """A TIFF slide, of 8-bit RGB or gray: uncompressed ones are memory-mapped, others decoded strip- or tile-wise."""

    def __init__(self, path: Path) -> None:
        self._file = opened(path)
        series = self._file.series[0]
        self._pages: list[Any] = [level.keyframe for level in series.levels]
        for page in self._pages:
            _check(page)
        height, width = _size(self._pages[0])
        shapes = [_size(page) for page in self._pages]
        self.levels = tuple(PyramidLevel((h, w), math.sqrt(height / h * width / w)) for h, w in shapes)
        self.is_tiled = all(page.is_tiled for page in self._pages)
        self.mpp = _ome_mpp(self._file) or _resolution_mpp(self._pages[0])
        page = self._pages[0]
        self.tile_side = int(page.tilewidth) if page.is_tiled else 256
        self._maps = [_mapped(path, page) for page in self._pages]
        self._number = next(_numbers)

    def region(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[Array, "h w 3"]:
        """Pixels of a region of a level.

        Raises:
            UnreadableError: If the file is damaged there.
        """
        mapped = self._maps[level]
        if mapped is not None:
            return _rgb(np.asarray(mapped[y : y + height, x : x + width]))
        page = self._pages[level]
        rows, columns = _segment_size(page)
        found = np.full((height, width, 3), 255, np.uint8)
        across = -(-page.imagewidth // columns)
        for row in range(y // rows, -(-(y + height) // rows)):
            for column in range(x // columns, -(-(x + width) // columns)):
                segment = self._segment(level, row * across + column)
                top, left = row * rows, column * columns
                y0, y1 = max(y, top), min(y + height, top + segment.shape[0])
                x0, x1 = max(x, left), min(x + width, left + segment.shape[1])
                found[y0 - y : y1 - y, x0 - x : x1 - x] = segment[y0 - top : y1 - top, x0 - left : x1 - left]
        return found

    def close(self) -> None:
        """Lets go of the file."""
        self._maps = []
        self._file.close()

    def _segment(self, level: int, index: int) -> UInt8[Array, "h w 3"]:
        key = (self._number, level, index)
        known = _cache.get(key)
        if known is not None:
            return known
        decoded = _decoded(self._file.filehandle, self._pages[level], index)
        if decoded is None:
            raise cut_short(*self.levels[level].shape)
        _cache.put(key, decoded)
        return decoded


class _Cache:
    """Decoded parts of slides, those used last; one for all slides of a process, which has many open at times."""

    def __init__(self) -> None:
        self._parts: OrderedDict[tuple[int, int, int], Array] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: tuple[int, int, int]) -> UInt8[Array, "h w 3"] | None:
        if key not in self._parts:
            return None
        self._parts.move_to_end(key)
        return self._parts[key]

    def put(self, key: tuple[int, int, int], part: UInt8[Array, "h w 3"]) -> None:
        self._parts[key] = part
        self._num_bytes += part.nbytes
        while self._num_bytes > CACHE_BYTES and len(self._parts) > 1:
            self._num_bytes -= self._parts.popitem(last=False)[1].nbytes


_cache, _numbers = _Cache(), count()


def short_level(path: Path) -> UnreadableError | None:
    """What is wrong with a TIFF some of whose pixels lie beyond its end; reads no pixels."""
    num_bytes = path.stat().st_size
    with opened(path) as file:
        if len(file.pages) == 0:
            return UnreadableError("a TIFF without a picture in it; the file is cut short or not what it claims")
        for page in file.pages:
            ends = np.asarray(page.dataoffsets, np.int64) + np.asarray(page.databytecounts, np.int64)
            if len(ends) == 0 or ends.max() > num_bytes:
                return cut_short(*_size(page))
        if names_lost_page(file):
            return UnreadableError(
                "a TIFF that goes on beyond its end, so levels of the slide are missing; copy it again"
            )
    return None


def names_lost_page(file: Any) -> bool:
    """Whether the last page that can be read of an open TIFF names a next one, which the file does not hold."""
    tiff, handle = file.tiff, file.filehandle
    offset = file.pages[len(file.pages) - 1].offset
    handle.seek(offset)
    (num_tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
    handle.seek(offset + tiff.tagnosize + num_tags * tiff.tagsize)
    following = handle.read(tiff.offsetsize)
    return len(following) < tiff.offsetsize or any(following)


def _check(page: Any) -> None:
    if page.dtype != np.uint8 or page.planarconfig != 1 or page.samplesperpixel not in (1, 3, 4):
        raise UnsupportedError(
            f"a TIFF slide of {page.samplesperpixel} channels of {page.dtype}; expected 8-bit RGB or gray, interleaved"
        )


def _size(page: Any) -> tuple[int, int]:
    return int(page.imagelength), int(page.imagewidth)


def _segment_size(page: Any) -> tuple[int, int]:
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)


def _mapped(path: Path, page: Any) -> Array | None:
    if not page.is_memmappable:
        return None
    shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
    if page.dataoffsets[0] + math.prod(shape) > path.stat().st_size:
        return None
    return np.memmap(path, np.uint8, "r", page.dataoffsets[0], shape)


def _decoded(handle: Any, page: Any, index: int) -> UInt8[Array, "h w 3"] | None:
    if index >= len(page.dataoffsets):
        return None
    offset, num_bytes = page.dataoffsets[index], page.databytecounts[index]
    if num_bytes == 0:  # a sparse file leaves out what is background
        return np.full((*_segment_size(page), 3), 255, np.uint8)
    handle.seek(offset)
    coded = handle.read(num_bytes)
    if len(coded) < num_bytes:
        return None
    try:
        pixels = page.decode(coded, index, jpegtables=page.jpegtables)[0]
    except (ValueError, RuntimeError):
        return None
    return None if pixels is None else _rgb(pixels.reshape(pixels.shape[-3:]))


def _rgb(pixels: UInt8[Array, "h w c"]) -> UInt8[Array, "h w 3"]:
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]


def _resolution_mpp(page: Any) -> float | None:
    unit, resolution = page.tags.get("ResolutionUnit"), page.tags.get("XResolution")
    if unit is None or resolution is None or int(unit.value) not in MICRONS:
        return None
    numerator, denominator = resolution.value
    mpp = MICRONS[int(unit.value)] * denominator / numerator if numerator else 0.0
    return mpp if PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1] else None


OME_UNITS = {"nm": 1e-3, "µm": 1.0, "\u03bcm": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
"""Microns in the units of OME-XML's PhysicalSizeXUnit; without one, microns are meant (OME 2016-06)."""


def _ome_mpp(file: Any) -> float | None:
    if not file.is_ome:
        return None
    from xml.etree import ElementTree

    for element in ElementTree.fromstring(file.ome_metadata).iter():
        if element.tag.endswith("}Pixels") and element.get("PhysicalSizeX"):
            unit = OME_UNITS.get(element.get("PhysicalSizeXUnit", "µm"))
            return None if unit is None else float(element.get("PhysicalSizeX", "0")) * unit or None
    return None
