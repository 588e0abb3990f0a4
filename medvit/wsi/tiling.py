"""Tile grid of a slide: positions, fraction of tissue, and flags for blur and ink."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from numpy import ndarray as Array
from pydantic import Field

from medvit.config import Config, Count, Positive, Share
from medvit.errors import DataError
from medvit.wsi.slide import Slide
from medvit.wsi.tiles import BLURRED, MPP, PEN, SAME_SCALE, TISSUE_MM2, Magnification, TileGrid
from medvit.wsi.tissue import WORKING_MPP, TissueMap, find_tissue, optical_density, require_tissue

MAX_OVERVIEW = 2048
"""Maximum length of the longer side of the low-power image, in pixels."""
SQUARE = 8
"""Side, in tiles of the file, of the squares in which a slide is traversed."""
PICTURE_SIDE = 512
"""Longer side of the preview in pixels."""
INK_SHARE = 0.02
"""Minimum fraction of a tile that ink must cover for the tile to be flagged."""
FOCUS_MPP = 1.0
"""Finest scale at which focus is measured."""
SHARPNESS = 0.06
"""Minimum sharpness of a tile in focus. On H&E at 1 micron per pixel, tiles in focus have 0.5 to 3, and 0.05 or less
when smoothed by a Gaussian of 2 microns.
"""


class TilesConfig(Config):
    """Options for cutting slides into tiles."""

    magnification: Magnification = "20x"
    """Magnification of the tiles. 40x, 20x, 10x and 5x are 0.25, 0.5, 1 and 2 microns per pixel."""
    mpp: Positive | None = None
    """Pixel size of the tiles in microns, used instead of `magnification`."""
    size: Count = 256
    """Side of a tile in pixels."""
    overlap: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Overlap of neighboring tiles, as a fraction of their side."""
    min_tissue: Share = 0.1
    """Minimum fraction of tissue in a tile. Tiles with less tissue are not used."""
    slide_mpp: Positive | None = None
    """Pixel size in microns for slides whose headers have none, or an implausible one. If set, plain TIFF images are
    read as slides, too.
    """
    pack: bool = False
    """Copy the pixels of the tiles into the dataset, each tile as an image. If false, tiles are read from the slides on
    demand.
    """

    @property
    def wished_mpp(self) -> float:
        """Requested microns per pixel."""
        return self.mpp or MPP[self.magnification]


@dataclass(frozen=True)
class Tiled:
    """Tiling of a slide: its tiles, tissue and ink at low magnification, and a small preview (3, h, w).

    `width` (of the slide) and `side` (of a tile) are in pixels of level 0.
    """

    grid: TileGrid
    picture: UInt8[Array, "3 h w"]
    found: TissueMap
    width: int
    side: float


def cut(slide: Slide, config: TilesConfig) -> Tiled:
    """Return the tiles of a slide that contain enough tissue.

    Raises:
        DataError: If the slide has no tissue, is smaller than a tile, or has a lower resolution than requested.
        UnreadableError: If the slide is damaged.
    """
    mpp = tile_mpp(slide, config.wished_mpp)
    side = config.size * mpp / slide.mpp
    if side > min(slide.shape) + 1:
        height, width = slide.shape
        raise DataError(
            f"the slide has {width} x {height} pixels at {slide.mpp:.4g} microns, less than one tile of {config.size} "
            f"pixels at {mpp:.4g}; choose smaller tiles or a higher magnification"
        )
    overview = slide.overview(min(MAX_OVERVIEW, max(16, round(max(slide.shape) * slide.mpp / WORKING_MPP))))
    scale = max(slide.shape) / max(overview.shape[1:])
    found = find_tissue(overview, slide.mpp * scale)
    require_tissue(found, overview)
    corners = in_file_order(_corners(slide.shape, side, side * (1.0 - config.overlap)), slide.tile_side)
    tissue, ink = (_shares(mask, corners / scale, side / scale) for mask in (found.tissue, found.ink))
    kept = tissue >= max(config.min_tissue, 1e-6)
    flags = np.where(ink > INK_SHARE, PEN, 0).astype(np.uint8)[kept]
    area_mm2 = float(found.tissue.sum()) * (slide.mpp * scale / 1000.0) ** 2
    facts = {"overlap": f"{config.overlap:g}", "min_tissue": f"{config.min_tissue:g}", TISSUE_MM2: f"{area_mm2:.4g}"}
    grid = TileGrid(corners[kept], config.size, mpp, tissue[kept], flags, facts)
    if not len(grid):
        raise DataError(
            f"no tile of the slide has enough tissue (tiles.min_tissue is {config.min_tissue:.0%} of a tile); the best "
            "tile has "
            f"{tissue.max(initial=0.0):.0%}: lower tiles.min_tissue, or choose smaller tiles"
        )
    return Tiled(_focused(slide, grid), slide.overview(PICTURE_SIDE), found, slide.shape[1], side)


def tile_mpp(slide: Slide, wished: float) -> float:
    """Return the microns per pixel of tiles: the requested value, or the value of a slide level if one is near.

    Raises:
        DataError: If the resolution of the slide is lower than requested.
    """
    near = [slide.mpp * level.downsample for level in slide.levels]
    best = min(near, key=lambda mpp: abs(mpp / wished - 1.0))
    if abs(best / wished - 1.0) <= SAME_SCALE:
        return best
    if slide.mpp > wished:
        raise DataError(
            f"the slide has {slide.mpp:.4g} microns per pixel, a lower resolution than the requested {wished:.4g}; "
            "choose a lower magnification"
        )
    return wished


def in_file_order(corners: Int64[Array, "n 2"], tile_side: int) -> Int64[Array, "n 2"]:
    """Return corners (x, y) ordered by squares of `SQUARE` x `SQUARE` file tiles, and row by row within a square.

    The file tiles in a square fit into a cache, so each is decoded only once, however wide the slide is.
    """
    x, y = corners.T
    square = SQUARE * tile_side
    return np.asarray(corners[np.lexsort((x, y, x // tile_side, y // tile_side, x // square, y // square))])


def sharpness(pixels: UInt8[Array, "3 h w"]) -> float:
    """Return the fraction of contrast in the finest detail: normalized Laplacian variance of optical density."""
    from scipy import ndimage

    density = optical_density(pixels).mean(axis=0)
    detail = ndimage.laplace(density)[2:-2, 2:-2]
    return float(detail.var() / (density.var() + 1e-4))


def _corners(shape: tuple[int, int], side: float, stride: float) -> Int64[Array, "n 2"]:
    height, width = shape
    x, y = (np.floor(np.arange(0.0, length - side + 1.0, stride)).astype(np.int64) for length in (width, height))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _shares(mask: Bool[Array, "h w"], corners: Float64[Array, "n 2"], side: float) -> Float32[Array, "n"]:
    """Return the fraction of each square that is inside a mask, computed by summed-area tables."""
    sums = np.pad(mask.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    height, width = mask.shape
    left, top = (np.minimum(np.floor(corners[:, n]).astype(int), size - 1) for n, size in ((0, width), (1, height)))
    right = np.minimum(np.maximum(np.ceil(corners[:, 0] + side).astype(int), left + 1), width)
    bottom = np.minimum(np.maximum(np.ceil(corners[:, 1] + side).astype(int), top + 1), height)
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return np.asarray(inside / ((right - left) * (bottom - top)), np.float32)


def _focused(slide: Slide, grid: TileGrid) -> TileGrid:
    """Return the grid, with a flag on tiles that are out of focus."""
    mpp = max(grid.mpp, FOCUS_MPP)
    size = max(8, int(grid.size * grid.mpp / mpp))
    flags = grid.flags.copy()
    for index, (x, y) in enumerate(grid.xy):
        if sharpness(slide.read(int(x), int(y), size, mpp)) < SHARPNESS:
            flags[index] |= BLURRED
    return TileGrid(grid.xy, grid.size, grid.mpp, grid.tissue, flags, grid.facts)
