from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from medvit.errors import DataError
from medvit.wsi.slide import Slide, open_slide
from medvit.wsi.tiles import BLURRED, PEN
from medvit.wsi.tiling import TilesConfig, cut, in_file_order, sharpness, tile_mpp

CENTIMETER = 3


def tissue(height: int, width: int) -> np.ndarray:
    """Nuclei of 8 microns on eosin, at 0.5 microns per pixel."""
    generator = np.random.default_rng(0)
    nuclei = ndimage.gaussian_filter((generator.uniform(size=(height, width)) > 0.998).astype(float), 4.0) * 100
    fine = ndimage.gaussian_filter(generator.normal(size=(height, width)), 1.0) * 0.3
    amount = np.clip(0.4 + nuclei.clip(0, 1.5) + fine, 0.1, 2.5)
    return np.array([0.25, 0.45, 0.2])[:, None, None] * amount


def slide(tmp_path: Path, density: np.ndarray, mpp: float = 0.5) -> Slide:
    pixels = np.clip(244 * 10**-density, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    path = tmp_path / "slide.tif"
    resolution = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": CENTIMETER}
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), compression="deflate", **resolution)
    return open_slide(path)


@pytest.fixture
def half(tmp_path: Path) -> Slide:
    """A slide with tissue on its left half."""
    density = np.zeros((3, 1024, 2048))
    density[:, :, :1024] = tissue(1024, 1024)
    return slide(tmp_path, density)


def test_tiles_lie_on_the_tissue_and_nowhere_else(half: Slide):
    grid = cut(half, TilesConfig(min_tissue=0.5)).grid
    assert sorted(map(tuple, grid.xy.tolist())) == [(x, y) for x in range(0, 1024, 256) for y in range(0, 1024, 256)]
    assert grid.tissue.min() > 0.9
    assert not grid.flags.any()


@pytest.mark.parametrize(("magnification", "side"), [("20x", 256), ("10x", 512), ("5x", 1024)])
def test_lower_magnifications_span_more_of_the_slide(half: Slide, magnification: str, side: int):
    grid = cut(half, TilesConfig(magnification=magnification)).grid
    assert grid.side(half.mpp) == pytest.approx(side, rel=1e-3)
    assert grid.xy.max() <= 2048 - side


def test_overlap_makes_steps_smaller(half: Slide):
    grid = cut(half, TilesConfig(overlap=0.5, min_tissue=0.5)).grid
    assert sorted(set(grid.xy[:, 0].tolist()))[:4] == [0, 128, 256, 384]


def test_every_tile_of_the_grid_can_be_read(half: Slide):
    for magnification in ("20x", "10x", "5x"):
        grid = cut(half, TilesConfig(magnification=magnification, size=100, overlap=0.3)).grid
        for x, y in grid.xy[::7]:
            assert half.read(int(x), int(y), grid.size, grid.mpp).shape == (3, 100, 100)


def test_a_scale_near_that_of_a_level_is_that_of_the_level(half: Slide):
    assert tile_mpp(half, 0.51) == half.mpp
    assert tile_mpp(half, 0.7) == 0.7
    with pytest.raises(DataError, match=r"a lower resolution than the requested 0\.25"):
        tile_mpp(half, 0.25)


def test_the_order_follows_the_tiles_of_the_file():
    corners = np.stack(np.meshgrid(np.arange(0, 512, 128), np.arange(0, 512, 128)), axis=-1).reshape(-1, 2)
    ordered = in_file_order(corners[np.random.default_rng(0).permutation(len(corners))], 256)
    tiles = (ordered // 256).tolist()
    assert tiles == sorted(tiles, key=lambda place: (place[1], place[0]))


def test_each_tile_of_the_file_is_decoded_once_or_nearly_so_on_a_wide_slide():
    side, cached = 256, 160
    x, y = np.meshgrid(np.arange(0, 256 * 100, 128), np.arange(0, 256 * 16, 128))
    decoded, cache = 0, dict.fromkeys([])
    for left, top in in_file_order(np.stack([x.ravel(), y.ravel()], axis=1), side):
        for place in {(a // side, b // side) for a in (left, left + 255) for b in (top, top + 255)}:
            decoded += place not in cache
            cache.pop(place, None)
            cache[place] = None
            if len(cache) > cached:
                cache.pop(next(iter(cache)))
    assert decoded < 1.35 * 101 * 17  # tiles of the file


def test_tiles_out_of_focus_and_under_ink_are_flagged(tmp_path: Path):
    density = tissue(1536, 2304)
    density[:, :, 768:1536] = ndimage.gaussian_filter(density[:, :, 768:1536], (0, 8, 8))
    density[:, :768, 1536:] += np.array([1.4, 0.1, 0.5])[:, None, None]
    grid = cut(slide(tmp_path, density), TilesConfig()).grid
    blurred = {tuple(place) for place in grid.xy[grid.has(BLURRED)].tolist() if place[0] < 1536}
    assert blurred == {(x, y) for x in (768, 1024, 1280) for y in range(0, 1536, 256)}


def test_sharpness_falls_with_blur():
    sharp = np.clip(244 * 10 ** -tissue(256, 256), 0, 255).astype(np.uint8)
    values = [sharpness(ndimage.gaussian_filter(sharp, (0, sigma, sigma))) for sigma in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True)


def test_what_cannot_be_tiled_is_told_in_one_sentence(half: Slide, tmp_path: Path):
    with pytest.raises(DataError, match="less than one tile of 4096"):
        cut(half, TilesConfig(size=4096))
    with pytest.raises(DataError, match="no tissue"):
        cut(slide(tmp_path, np.zeros((3, 600, 600))), TilesConfig())


def test_ink_bits_differ_from_blur():
    assert BLURRED & PEN == 0
