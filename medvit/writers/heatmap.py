"""Heat map of a slide as a pyramidal TIFF for slide viewers, with its microns per pixel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray as Array

from medvit.records import Item
from medvit.writers import ModelTask, SlideContext
from medvit.writers.optional import write_optional
from medvit.writers.slide_maps import HeatMap, SlideFinding, attention_map, class_map

CELLS, MAX_SIDE = (64, 32, 16, 8, 4, 2, 1), 8192
"""Possible pixels per side of a map cell, halved level by level; and maximum side of the largest level in pixels."""
TILE = 256
"""Side of the file's own tiles, in pixels."""
EMPTY = (255, 255, 255)
"""Color of areas without a tile."""
CENTIMETER = 3
"""TIFF's unit of resolution: pixels per centimeter (TIFF 6.0, ResolutionUnit)."""
MICRONS = 1e4
"""Microns per centimeter."""
COLORS = {"attention": "viridis", "class": "inferno", "signed": "RdBu_r"}
"""Kind of map -> color map of matplotlib that is safe for color-blind readers (Nuñez et al. 2018)."""


def colored(values: Float[Array, "r c"], colors: str) -> UInt8[Array, "r c 3"]:
    """Return values from 0 to 1 in the colors of a map of `COLORS`; white outside of the tiles."""
    from matplotlib import colormaps

    picture = colormaps[COLORS[colors]](np.nan_to_num(values), bytes=True)[..., :3]
    picture[np.isnan(values)] = EMPTY
    return np.asarray(picture)


def write_heatmap(path: Path, heat: HeatMap, colors: str) -> None:
    """Write a tiled RGB TIFF of several levels, each drawn directly from the map, one tile at a time."""
    import tifffile

    cells = colored(heat.values, colors)
    with tifffile.TiffWriter(path) as file:
        for level, pixels in enumerate(_levels(heat)):
            shape = (cells.shape[0] * pixels, cells.shape[1] * pixels, 3)
            density = MICRONS / (heat.mpp * heat.cell / pixels)
            file.write(
                _tiles(cells, pixels),
                shape=shape,
                dtype=np.uint8,
                photometric="rgb",
                tile=(TILE, TILE),
                compression="deflate",
                subfiletype=int(level > 0),
                resolution=(density, density),
                resolutionunit=CENTIMETER,
                metadata=None,
                software="medvit",
            )


def _levels(heat: HeatMap) -> list[int]:
    """Return the pixels per side of a map cell at each level, down to the first level that fits into one tile."""
    side = max(heat.values.shape)
    first = next((pixels for pixels in CELLS if side * pixels <= MAX_SIDE), 1)
    return [pixels for pixels in CELLS if pixels <= first and (pixels == first or 2 * pixels * side > TILE)]


def _tiles(cells: UInt8[Array, "r c 3"], pixels: int) -> Iterator[UInt8[Array, "h w 3"]]:
    """Yield the tiles of a level, row by row; a map cell has `pixels` pixels per side, and the far edges are white."""
    step = TILE // pixels
    rows, columns = cells.shape[:2]
    for top in range(0, rows, step):
        for left in range(0, columns, step):
            part = cells[top : top + step, left : left + step]
            missing = ((0, step - part.shape[0]), (0, step - part.shape[1]), (0, 0))
            filled = np.pad(part, missing, constant_values=EMPTY[0])
            yield filled.repeat(pixels, axis=0).repeat(pixels, axis=1)


class HeatmapWriter:
    """Writer of `attention.tif` and, for each class with a map, `class-INDEX-NAME.tif`.

    If one file fails, the others are still written.
    """

    name, title = "heatmap", "heat map"
    tasks: Sequence[ModelTask] = ("slide",)

    def applies(self, item: Item, prediction: SlideFinding) -> bool:
        """Return True, because the format applies to every slide."""
        return True

    def write(self, context: SlideContext, folder: Path) -> Sequence[str]:
        """Write the maps."""
        found, path = context.prediction, context.path(folder, "attention", ".tif")
        notes = write_optional("attention map", path, partial(_write_attention, path, found))
        for label in found.heat_classes():
            name = re.sub(r"[^A-Za-z0-9]+", "-", found.classes[label]).strip("-")
            path = context.path(folder, f"class-{label}-{name}", ".tif")
            notes += write_optional(f"map of class {label}", path, partial(_write_class, path, found, label))
        return notes


def _write_attention(path: Path, found: SlideFinding) -> None:
    write_heatmap(path, attention_map(found), "attention")


def _write_class(path: Path, found: SlideFinding, label: int) -> None:
    write_heatmap(path, class_map(found, label), "class")


WRITER = HeatmapWriter()
