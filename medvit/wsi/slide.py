"""Whole slides: detection of their files, and reading of regions at any magnification.

OpenSlide reads the formats it supports, wsidicom reads DICOM, and tifffile reads OME-TIFF and plain TIFF. Label and
macro images are never read, because they may show names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.errors import DataError, UnreadableError
from medvit.files.guard import decoding
from medvit.wsi import dicom_backend
from medvit.wsi.dicom_backend import DicomPyramid
from medvit.wsi.fast_tiff import GENERIC, of_maker, plain
from medvit.wsi.openslide_backend import vendor
from medvit.wsi.pyramid import Pyramid, PyramidLevel, cut_short, microns_per_pixel

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".qptiff", ".svslide")
MODALITY = "SM"
"""DICOM modality of slide microscopy."""
SCALE_TOLERANCE = 1e-3
"""Relative difference of scale below which a level is read without resampling: 1/4 pixel over a tile of 256 pixels."""
FINER = 1.05
"""Maximum factor by which a requested scale may be finer than the slide's; scanners of the same nominal magnification
differ by as much.
"""
BAND_BYTES = 2**25
"""Bytes of pixels in memory at once while an overview is made."""
LARGE = 2**25
"""A tiled TIFF with more pixels than this is a slide, even with a single scale."""


class Slide:
    """Open slide: positions are in pixels of level 0, x along a row and y down; `shape` is (H, W) of level 0.

    `mpp` is the pixel size in microns at level 0: as stated in the file, or as given if the file does not state it.
    """

    def __init__(self, pyramid: Pyramid, mpp: float | None = None) -> None:
        self._pyramid = pyramid
        try:
            self.mpp: float = microns_per_pixel(pyramid.pixel_um, mpp)
        except DataError:
            pyramid.close()
            raise
        self.levels: tuple[PyramidLevel, ...] = pyramid.levels
        self.shape: tuple[int, int] = pyramid.levels[0].shape
        self.tile_side: int = pyramid.tile_side

    def read(self, x: int, y: int, size: int, mpp: float) -> UInt8[Array, "3 size size"]:
        """Read a square region of `size` pixels per side at `mpp` microns per pixel; (x, y) is its upper left corner.

        Raises:
            DataError: If the region is not within the slide, or its resolution is higher than that of the slide.
            UnreadableError: If the file is damaged there.
        """
        scale = mpp / self.mpp
        self._check(x, y, size * scale, scale, mpp)
        number = self._level(scale)
        level = self.levels[number]
        factor = scale / level.downsample
        if abs(factor - 1.0) < SCALE_TOLERANCE:
            left = min(round(x / level.downsample), level.shape[1] - size)
            top = min(round(y / level.downsample), level.shape[0] - size)
            if min(left, top) >= 0:
                return _channels_first(self._region(number, left, top, size, size))
        box = (x / level.downsample, y / level.downsample, size * factor, size * factor)
        return _channels_first(self._resized(number, box, (size, size)))

    def overview(self, max_side: int) -> UInt8[Array, "3 h w"]:
        """Return the whole slide with a longer side of at most `max_side` pixels; memory use is constant."""
        shrunk = max(1.0, max(self.shape) / max_side)
        height, width = (max(1, round(side / shrunk)) for side in self.shape)
        number = self._level(shrunk)
        rows, columns = self.levels[number].shape
        at_once = max(1, int(BAND_BYTES / (3 * columns * rows / height)))
        bands = []
        for top in range(0, height, at_once):
            count = min(at_once, height - top)
            box = (0.0, top * rows / height, float(columns), count * rows / height)
            bands.append(self._resized(number, box, (count, width)))
        return _channels_first(np.concatenate(bands))

    def check(self) -> None:
        """Read the lower right corner of every level, to detect truncated files.

        Raises:
            UnreadableError: If a level is truncated.
        """
        for number, level in enumerate(self.levels):
            height, width = level.shape
            self._region(number, width - 1, height - 1, 1, 1)

    def close(self) -> None:
        """Close the file."""
        self._pyramid.close()

    def _check(self, x: int, y: int, side: float, scale: float, mpp: float) -> None:
        if scale * FINER < 1.0:
            raise DataError(
                f"a region was requested at {mpp:.4g} microns per pixel; expected {self.mpp:.4g} (the pixel size of "
                "the slide) or more: request a lower magnification"
            )
        height, width = self.shape
        if min(x, y) < 0 or x + side > width + scale or y + side > height + scale:
            raise DataError(
                f"a tile at ({x}, {y}) that spans {side:.0f} pixels is outside the slide of {width} x {height} pixels"
            )

    def _level(self, scale: float) -> int:
        """Return the index of the level with the lowest resolution that is still sufficient for a scale factor."""
        fine = [n for n, level in enumerate(self.levels) if level.downsample <= scale * (1.0 + SCALE_TOLERANCE)]
        return max(fine, key=lambda n: self.levels[n].downsample, default=0)

    def _region(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[Array, "h w 3"]:
        try:
            with decoding("the slide"):
                return self._pyramid.region(level, x, y, width, height)
        except UnreadableError as error:
            raise cut_short(*self.levels[level].shape) from error

    def _resized(
        self, level: int, box: tuple[float, float, float, float], shape: tuple[int, int]
    ) -> UInt8[Array, "h w 3"]:
        """Return a box (x, y, width, height) of a level, averaged or interpolated to the given shape."""
        from PIL import Image as Pillow

        rows, columns = self.levels[level].shape
        x, y, width, height = box
        left, top = max(0, math.floor(x)), max(0, math.floor(y))
        right, bottom = min(columns, math.ceil(x + width)), min(rows, math.ceil(y + height))
        pixels = self._region(level, left, top, right - left, bottom - top)
        inside = (x - left, y - top, min(x - left + width, right - left), min(y - top + height, bottom - top))
        how = Pillow.Resampling.BOX if height > shape[0] else Pillow.Resampling.BILINEAR
        resized = Pillow.fromarray(pixels).resize(shape[::-1], how, inside)
        return np.asarray(resized)


def _channels_first(pixels: UInt8[Array, "h w 3"]) -> UInt8[Array, "3 h w"]:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def open_slide(path: Path | Sequence[Path], mpp: float | None = None) -> Slide:
    """Open a slide from a file, or from the DICOM files of its levels; `mpp` applies if the file states none.

    For a single DICOM file, the other levels are found in its folder.

    Raises:
        DataError: If the slide does not state a pixel size and `mpp` is not given.
        UnreadableError: If the file is not a slide of the format it claims to be.
    """
    files = [path] if isinstance(path, Path) else list(path)
    with decoding("the slide"):
        pyramid = _pyramid(files)
    return Slide(pyramid, mpp)


def _pyramid(files: list[Path]) -> Pyramid:
    with files[0].open("rb") as stream:
        head = stream.read(512)
    if dicom_backend.claims(head):
        return DicomPyramid(files if len(files) > 1 else dicom_backend.siblings(files[0]))
    maker = vendor(files[0])
    if maker and maker != GENERIC:
        return of_maker(files[0], maker)
    if head.startswith(TIFF_MAGIC):
        return plain(files[0])
    raise UnreadableError("the file has a slide suffix, but its bytes are not of a supported slide format")
