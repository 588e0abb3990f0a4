"""Tiny slides of two classes: pink tissue, with a dark purple spot in those of the second."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.dataset.manifest import Facts, Manifest
from medvit.records import Row
from medvit.wsi.locations import SlideFiles, write_locations
from medvit.wsi.slide import open_slide
from medvit.wsi.tiles import TileGrid

MPP, SIZE, HEIGHT, WIDTH = 0.5, 32, 192, 256
CLASSES = ("healthy", "tumor")
PINK, PURPLE, GLASS = (225, 150, 190), (90, 40, 120), (245, 245, 245)
SPOT = (slice(64, 128), slice(96, 192))
"""Rows and columns of the spot: 2 by 3 whole tiles."""
CENTIMETER = 3


def picture(seed: int, *, has_tumor: bool) -> UInt8[Array, "h w 3"]:
    """Glass at the left edge, tissue elsewhere."""
    pixels = np.full((HEIGHT, WIDTH, 3), PINK, dtype=np.int16)
    pixels[:, :SIZE] = GLASS
    if has_tumor:
        pixels[SPOT] = PURPLE
    pixels += np.random.default_rng(seed).integers(-10, 10, pixels.shape, dtype=np.int16)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_slide(path: Path, pixels: UInt8[Array, "h w 3"], mpp: float = MPP) -> Path:
    """A pyramid of two levels as a tiled TIFF."""
    resolution = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": CENTIMETER}
    with tifffile.TiffWriter(path) as writer:
        for level, step in enumerate((1, 4)):
            writer.write(
                pixels[::step, ::step], photometric="rgb", tile=(64, 64), subfiletype=int(level > 0), **resolution
            )
    return path


def grid(overlap: float = 0.0) -> TileGrid:
    """The tiles of a slide with tissue, row by row."""
    step = int(SIZE * (1 - overlap))
    x, y = np.meshgrid(np.arange(SIZE, WIDTH - SIZE + 1, step), np.arange(0, HEIGHT - SIZE + 1, step))
    xy = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int64)
    return TileGrid(xy, SIZE, MPP, np.ones(len(xy), np.float32), np.zeros(len(xy), np.uint8))


def is_in_spot(tiles: TileGrid) -> Array:
    """Indices of the tiles in the spot of tumor."""
    x, y = tiles.xy.T
    rows, columns = SPOT
    return (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)


def write_dataset(folder: Path, count: int = 12, *, key: Path, slides_a_patient: int = 1) -> Manifest:
    """A dataset of slides, half of them of each class, in splits of 1/2, 1/4 and 1/4."""
    source = folder.with_name(f"{folder.name}-source")
    source.mkdir()
    folder.mkdir()
    rows, places = [], {}
    for number in range(count):
        label, name = CLASSES[number // slides_a_patient % 2], f"i-{number:03d}"
        path = write_slide(source / f"{name}.tif", picture(number, has_tumor=label == CLASSES[1]))
        places[name] = SlideFiles((str(path),))
        slide = open_slide(path)
        split = ("train", "train", "val", "test")[number // slides_a_patient // 2 % 4]
        patient = f"p-{number // slides_a_patient:03d}"
        shape, digest = (3, *slide.shape), hashlib.sha256(path.read_bytes()).hexdigest()
        identity = (name, patient, f"s-{number}", f"e-{number}", "SM", "slide", "tiny")
        rows.append(Row(*identity, split, shape, "uint8", digest, labels={"label": label}, mpp=slide.mpp))
        slide.close()
        grid().write(folder, name)
    write_locations(key, "tiny", places)
    manifest = Manifest(tuple(rows), Facts("tiny", classes={"label": CLASSES}), folder)
    manifest.write()
    return manifest
