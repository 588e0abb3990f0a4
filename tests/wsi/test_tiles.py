from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.errors import DataError
from medvit.wsi.tiles import BLURRED, PEN, TileGrid

GRID = TileGrid(
    xy=np.array([[0, 0], [256, 0], [0, 256]], np.int64),
    size=256,
    mpp=0.5,
    tissue=np.array([1.0, 0.5, 0.25], np.float32),
    flags=np.array([0, BLURRED, BLURRED | PEN], np.uint8),
    facts={"overlap": "0"},
)


def same(one: TileGrid, other: TileGrid) -> bool:
    arrays = all(np.array_equal(getattr(one, key), getattr(other, key)) for key in ("xy", "tissue", "flags"))
    return arrays and (one.size, one.mpp, one.facts) == (other.size, other.mpp, other.facts)


def test_a_grid_that_is_written_reads_back_unchanged(tmp_path: Path):
    GRID.write(tmp_path, "i-1")
    assert same(TileGrid.read(tmp_path, "i-1"), GRID)


def test_tiles_are_chosen_by_their_flags():
    assert GRID.has(PEN).tolist() == [False, False, True]
    assert GRID.only(~GRID.has(BLURRED | PEN)).xy.tolist() == [[0, 0]]


def test_the_side_of_a_tile_on_the_slide_follows_the_microns_per_pixel():
    assert replace(GRID, mpp=1.0).side(slide_mpp=0.25) == 1024


def test_a_grid_that_is_missing_or_damaged_is_told_in_one_sentence(tmp_path: Path):
    with pytest.raises(DataError, match="has no tile list of slide i-1"):
        TileGrid.read(tmp_path, "i-1")
    GRID.write(tmp_path, "i-1")
    (tmp_path / "tiles" / "i-1.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="are damaged; ingest the slides again"):
        TileGrid.read(tmp_path, "i-1")


def test_a_hundred_thousand_tiles_take_less_than_a_megabyte(tmp_path: Path):
    places = np.stack(np.meshgrid(np.arange(400), np.arange(400)), axis=-1).reshape(-1, 2).astype(np.int64) * 256
    many = replace(GRID, xy=places, tissue=np.ones(len(places), np.float32), flags=np.zeros(len(places), np.uint8))
    many.write(tmp_path, "i-1")
    assert (tmp_path / "tiles" / "i-1.parquet").stat().st_size < 2**20
