"""Generic TIFF slides: plain and OME-TIFF through tifffile, in strips or tiles, decoded one by one."""

from __future__ import annotations

import logging
import math
import struct
from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.errors import DataError, UnreadableError, UnsupportedError
from medvit.wsi.pyramid import PyramidLevel, cut_short
from medvit.wsi.tiff_colors import colors_of
from medvit.wsi.tiff_scan import scan_of, size_of
from medvit.wsi.turned import FLIPS, UPRIGHT

CACHE_BYTES = 2**27
"""Cache size for the decoded strips and tiles of all slides of a process."""
LOSSLESS = (1, 5, 8, 32773, 32946, 50000)
"""Values of (259) Compression that all decoders decode identically: none, LZW, deflate, PackBits, Zstandard."""
CONTIGUOUS = 1
"""Value of (284) PlanarConfiguration: the channels of a pixel side by side."""


def opened(path: Path) -> Any:
    """Open a TIFF with tifffile; warnings, which quote file names, are silenced, and no other file is opened."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile.TiffFile(path, _multifile=False)  # an OME-TIFF may name any file as its next part


class TiffPyramid:
    """TIFF slide of 8-bit color or gray: memory-mapped if uncompressed, else decoded by strip or tile.

    Pixels are returned as stored; `orientation` is the orientation for display.
    """

    def __init__(self, path: Path) -> None:
        self._file = opened(path)
        try:
            scan = scan_of(self._file)
            self._pages = scan.pages
            self._colors = [colors_of(page) for page in self._pages]
            for page in self._pages:
                _require_decoder(page)
            self.orientation = _orientation(self._pages)
        except DataError:
            self._file.close()
            raise
        height, width = size_of(self._pages[0])
        shapes = [size_of(page) for page in self._pages]
        self.levels = tuple(PyramidLevel((h, w), math.sqrt(height / h * width / w)) for h, w in shapes)
        self.is_tiled = all(page.is_tiled for page in self._pages)
        self.is_lossy = any(int(page.compression) not in LOSSLESS for page in self._pages)
        self.is_sparse = any(0 in page.databytecounts for page in self._pages)
        self.is_first = self._pages[0].index == 0
        self.pixel_um = scan.pixel_um
        self.tile_side = int(self._pages[0].tilewidth) if self._pages[0].is_tiled else 256
        self._maps = [_mapped(path, page) for page in self._pages]
        self._number = next(_numbers)

    def region(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[Array, "h w 3"]:
        """Read the pixels of a region of a level.

        Raises:
            UnreadableError: If the file is damaged there.
            UnsupportedError: If a channel of unknown meaning is not empty there.
        """
        mapped, colors = self._maps[level], self._colors[level]
        if mapped is not None:
            return colors.rgb(np.asarray(mapped[y : y + height, x : x + width]))
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
        """Close the file."""
        self._maps = []
        self._file.close()

    def _segment(self, level: int, index: int) -> UInt8[Array, "h w 3"]:
        key = (self._number, level, index)
        known = _cache.get(key)
        if known is not None:
            return known
        samples = _decoded(self._file.filehandle, self._pages[level], index)
        if samples is None:
            raise cut_short(*self.levels[level].shape)
        page = self._pages[level]
        height, width = _filled(page, index)
        decoded = self._colors[level].rgb(samples[:height, :width]) if samples.size else _blank(page)
        _cache.put(key, decoded)
        return decoded


class _Cache:
    """Least-recently-used cache of decoded parts of slides, shared by all open slides of a process."""

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
    """Return an error if pixels are missing at the end of a TIFF; None if the file is complete.

    No pixels are read.
    """
    num_bytes = path.stat().st_size
    with opened(path) as file:
        if len(file.pages) == 0:
            return UnreadableError("a TIFF without a picture in it; the file is cut short or not what it claims")
        for page in file.pages:
            ends = np.asarray(page.dataoffsets, np.int64) + np.asarray(page.databytecounts, np.int64)
            if len(ends) == 0 or ends.max() > num_bytes:
                return cut_short(*size_of(page))
        if names_lost_page(file):
            return UnreadableError(
                "a TIFF that extends past the end of its file, so levels of the slide are missing; copy it again"
            )
    return None


def names_lost_page(file: Any) -> bool:
    """Return whether the last readable page of an open TIFF refers to a next page that is not in the file."""
    tiff, handle = file.tiff, file.filehandle
    offset = file.pages[len(file.pages) - 1].offset
    handle.seek(offset)
    (num_tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
    handle.seek(offset + tiff.tagnosize + num_tags * tiff.tagsize)
    following = handle.read(tiff.offsetsize)
    return len(following) < tiff.offsetsize or any(following)


def _require_decoder(page: Any) -> None:
    from tifffile import TIFF

    if int(page.compression) not in TIFF.DECOMPRESSORS:
        name = getattr(page.compression, "name", str(page.compression))
        raise UnsupportedError(
            f"a TIFF slide compressed as {name}, which no installed decoder supports; expected JPEG, JPEG 2000, WebP, "
            "LZW, deflate or none: convert it"
        )


def _orientation(pages: Sequence[Any]) -> int:
    """Return the (274) Orientation that all levels have in common."""
    found = {int(page.tags.valueof("Orientation", UPRIGHT)) for page in pages}
    if len(found) > 1 or not found <= set(FLIPS):
        raise UnsupportedError(
            f"a TIFF slide whose levels have the orientations {', '.join(map(str, sorted(found)))}; expected one of 1 "
            "to 8 for all: correct (274) Orientation"
        )
    return found.pop()


def _segment_size(page: Any) -> tuple[int, int]:
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)


def _filled(page: Any, index: int) -> tuple[int, int]:
    """Return how many rows and columns of a strip or tile are inside the image; pixels outside are arbitrary."""
    rows, columns = _segment_size(page)
    row, column = divmod(index, -(-page.imagewidth // columns))
    height, width = size_of(page)
    return min(rows, height - row * rows), min(columns, width - column * columns)


def _mapped(path: Path, page: Any) -> Array | None:
    if not page.is_memmappable or page.planarconfig != CONTIGUOUS:
        return None
    shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
    if page.dataoffsets[0] + math.prod(shape) > path.stat().st_size:
        return None
    return np.memmap(path, np.uint8, "r", page.dataoffsets[0], shape)


def _decoded(handle: Any, page: Any, index: int) -> UInt8[Array, "h w c"] | None:
    """Return the samples of a strip or tile; None if it is damaged.

    Samples that a sparse file omits are empty.
    """
    num_planes = 1 if page.planarconfig == CONTIGUOUS else int(page.samplesperpixel)
    num_segments = len(page.dataoffsets) // num_planes
    if index >= num_segments:
        return None
    planes = [_decoded_plane(handle, page, index + plane * num_segments) for plane in range(num_planes)]
    whole = [plane for plane in planes if plane is not None]
    if len(whole) < num_planes or len({plane.shape for plane in whole}) > 1:
        return None
    return whole[0] if num_planes == 1 else np.concatenate(whole, axis=2)


def _decoded_plane(handle: Any, page: Any, index: int) -> UInt8[Array, "h w c"] | None:
    offset, num_bytes = page.dataoffsets[index], page.databytecounts[index]
    num_samples = int(page.samplesperpixel) if page.planarconfig == CONTIGUOUS else 1
    if num_bytes == 0:
        return np.empty((0, 0, num_samples), np.uint8)
    handle.seek(offset)
    coded = handle.read(num_bytes)
    if len(coded) < num_bytes:
        return None
    try:
        pixels = page.decode(coded, index, jpegtables=page.jpegtables)[0]
    except (ValueError, RuntimeError):
        return None
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape[-1] != num_samples:
        return None
    return np.asarray(pixels.reshape(pixels.shape[-3:]))


def _blank(page: Any) -> UInt8[Array, "h w 3"]:
    """Return white glass, for tiles that a sparse file omits."""
    return np.full((*_segment_size(page), 3), 255, np.uint8)
