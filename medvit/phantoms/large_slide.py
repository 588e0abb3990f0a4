"""Slide of any size in a small file: a pyramid whose tiles are a few images, referenced repeatedly.

The tables of a TIFF may point to the same bytes from many places (TIFF 6.0, section 15), so 100,000 x 100,000 pixels
take a few MiB.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from numpy import ndarray as Array

from medvit.phantoms.slide import COARSE, MICRONS, QUALITY, TILE, levels, slide

PERIOD = 8
"""Number of level 0 tiles after which the tissue pattern repeats."""
STEP, NUM_LEVELS = 4, 4
"""Ratio of the sides of successive levels, as scanners write them; and number of levels."""
LIGHT = 244
SHORT, LONG, RATIONAL, LONG8 = 3, 4, 5, 16
"""Types of BigTIFF fields."""


def write_large(path: Path, side: int, *, mpp: float = 0.25, seed: int = 0) -> None:
    """Write a square slide of `side` pixels with a disk of tissue over two thirds of its width."""
    texture = slide(np.random.default_rng([seed, 5]), "tumor", shape=(PERIOD * TILE, PERIOD * TILE)).pixels
    tissue = texture[_inner(len(texture))]
    pictures = list(levels(np.tile(tissue, (2, 2, 1))[: len(texture), : len(texture)], 2 * NUM_LEVELS))[::2]
    glass = _jpeg(np.full((TILE, TILE, 3), LIGHT, np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        place_of_first, glass_at = 8, file.tell()
        file.write(glass)
        for number, picture in enumerate(pictures):
            tiles = _tiles(picture)
            offsets = [(file.tell(), file.write(tile)) for tile in tiles]
            size = -(-side // STEP**number)
            where = _table(size, int(len(tiles) ** 0.5), offsets, (glass_at, len(glass)))
            directory = _directory(file, size, where, mpp * STEP**number, is_reduced=number > 0)
            end = file.tell()
            file.seek(place_of_first)
            file.write(struct.pack("<Q", directory))
            file.seek(end)
            place_of_first = end - 8


def _inner(side: int) -> tuple[slice, slice]:
    """Return the rows and columns of the central square of a phantom, which contains only tissue."""
    quarter = side // (4 * COARSE) * COARSE
    return (slice(quarter, side - quarter), slice(quarter, side - quarter))


def _tiles(picture: UInt8[Array, "h w 3"]) -> list[bytes]:
    count = max(1, len(picture) // TILE)
    small = np.tile(picture, (-(-TILE // len(picture)),) * 2 + (1,)) if len(picture) < TILE else picture
    return [
        _jpeg(small[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE])
        for row in range(count)
        for column in range(count)
    ]


def _jpeg(pixels: UInt8[Array, "h w 3"]) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "JPEG", quality=QUALITY, subsampling=0)
    return content.getvalue()


def _table(size: int, period: int, offsets: list[tuple[int, int]], glass: tuple[int, int]) -> Int64[Array, "2 n"]:
    """Return the offset and length of each tile of a level in the file, row by row.

    Tiles of tissue repeat the stored images in `offsets` with a period of `period` tiles; all others are `glass`.
    """
    count = -(-size // TILE)
    row, column = np.mgrid[:count, :count]
    known = np.array([*offsets, glass], np.int64)
    chosen = (row % period) * period + column % period
    chosen[~_in_disk(size, count)] = len(offsets)
    return np.asarray(known[chosen.ravel()].T)


def _in_disk(size: int, count: int) -> Bool[Array, "n n"]:
    row, column = (np.mgrid[:count, :count] + 0.5) * TILE / size * 2 - 1
    return np.asarray(np.hypot(row, column) < 2 / 3)


def _directory(file: io.BufferedWriter, size: int, table: Int64[Array, "2 n"], mpp: float, *, is_reduced: bool) -> int:
    """Write the tables and the directory of a level; return the offset of the directory.

    The last 8 bytes of a directory point to the next directory.
    """
    offsets_at = file.tell()
    file.write(table[0].astype("<u8").tobytes())
    counts_at = file.tell()
    file.write(table[1].astype("<u8").tobytes())
    per_cm = struct.pack("<II", round(MICRONS / mpp * 1000), 1000)
    depth = struct.pack("<HHH", 8, 8, 8) + b"\0\0"
    sampling = struct.pack("<HH", 1, 1)
    number = len(table[0])
    fields = [
        (254, LONG, 1, struct.pack("<I", int(is_reduced))),
        (256, LONG, 1, struct.pack("<I", size)),
        (257, LONG, 1, struct.pack("<I", size)),
        (258, SHORT, 3, depth),
        (259, SHORT, 1, struct.pack("<H", 7)),  # JPEG
        (262, SHORT, 1, struct.pack("<H", 6)),  # YCbCr
        (277, SHORT, 1, struct.pack("<H", 3)),
        (282, RATIONAL, 1, per_cm),
        (283, RATIONAL, 1, per_cm),
        (284, SHORT, 1, struct.pack("<H", 1)),
        (296, SHORT, 1, struct.pack("<H", 3)),  # centimeter
        (322, LONG, 1, struct.pack("<I", TILE)),
        (323, LONG, 1, struct.pack("<I", TILE)),
        (324, LONG8, number, struct.pack("<Q", offsets_at if number > 1 else int(table[0, 0]))),
        (325, LONG8, number, struct.pack("<Q", counts_at if number > 1 else int(table[1, 0]))),
        (530, SHORT, 2, sampling),
    ]
    start = file.tell()
    file.write(struct.pack("<Q", len(fields)))
    for tag, kind, count, value in fields:
        file.write(struct.pack("<HHQ", tag, kind, count) + value.ljust(8, b"\0"))
    file.write(struct.pack("<Q", 0))
    return start
