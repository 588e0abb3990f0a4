"""Maps of slides lie on the right place of an asymmetric slide: table, overview and TIFF."""

from __future__ import annotations

import csv
from contextlib import closing
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image as Picture

from medvit.explanations.slides.drawing import (
    plane_of,
    slide_map_figure,
    write_map_tiff,
    write_slide_overlay,
    write_tiles,
)
from medvit.models.slide import SlideReading
from medvit.writers.slide_maps import SlideFinding, tile_map
from medvit.wsi.slide import open_slide
from tests.wsi.slides import CLASSES, HEIGHT, MPP, SIZE, SPOT, WIDTH, grid, is_in_spot, picture, write_slide


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "slide.tif", picture(0, has_tumor=True))


def finding(overlap: float = 0.0) -> SlideFinding:
    tiles = grid(overlap)
    count = len(tiles)
    even = np.full((1, count), 1.0 / count)
    reading = SlideReading(np.array([0.2, 0.8]), np.array([[0.2, 0.8]]), even, np.full((count, 2), 0.5))
    return SlideFinding(tiles, reading, CLASSES, (HEIGHT, WIDTH), MPP)


@pytest.mark.parametrize("is_signed", [False, True])
def test_the_map_lies_on_the_spot_of_the_overview(place: Path, is_signed: bool) -> None:
    found = finding()
    values = is_in_spot(found.grid).astype(np.float32)
    with closing(open_slide([place])) as slide:
        plane = plane_of(slide, tile_map(found, values), is_signed=is_signed)
    assert plane.values.shape == plane.picture.shape[:2]
    is_dark = plane.picture.mean(axis=-1) < 0.45
    assert is_dark.sum() == pytest.approx(64 * 96 * is_dark.size / (HEIGHT * WIDTH), rel=0.05)
    assert (is_dark == (plane.values > 0.5)).mean() > 0.99


def test_the_overlay_is_the_slide_where_the_map_has_no_tile(place: Path, tmp_path: Path) -> None:
    found = finding()
    values = is_in_spot(found.grid).astype(np.float32)
    with closing(open_slide([place])) as slide:
        bare = np.moveaxis(slide.overview(900), 0, -1)
        write_slide_overlay(tmp_path / "overlay.png", slide, found, values, is_signed=True)
    shown = np.asarray(Picture.open(tmp_path / "overlay.png"))
    changed = np.abs(shown.astype(int) - bare).max(axis=-1) > 1
    assert not changed[:, :SIZE].any()  # glass
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (64, 128, 96, 192)


def test_the_tiff_has_the_scale_of_the_slide_and_its_color_at_the_spot(place: Path, tmp_path: Path) -> None:
    found = finding()
    write_map_tiff(tmp_path / "map.tif", found, is_in_spot(found.grid).astype(np.float32), is_signed=True)
    heat = openslide.OpenSlide(tmp_path / "map.tif")
    mpp = float(heat.properties[openslide.PROPERTY_NAME_MPP_X])
    pixels = np.asarray(heat.read_region((0, 0), 0, heat.dimensions).convert("RGB")).astype(int)
    is_red = pixels[..., 0] - pixels[..., 2] > 50
    rows, columns = np.nonzero(is_red)
    edges = np.array([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]) * mpp / MPP
    np.testing.assert_allclose(edges, [SPOT[0].start, SPOT[0].stop, SPOT[1].start, SPOT[1].stop], atol=1)


def test_the_table_has_every_tile_once_with_the_highest_first(tmp_path: Path) -> None:
    found = finding(overlap=0.5)
    values = np.random.default_rng(0).normal(size=len(found.grid)).astype(np.float32)
    write_tiles(tmp_path / "tiles.csv", found, values)
    with (tmp_path / "tiles.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert {(int(line["x"]), int(line["y"])) for line in lines} == {(int(x), int(y)) for x, y in found.grid.xy}
    assert [float(line["value"]) for line in lines] == pytest.approx(sorted(values, reverse=True), rel=1e-4)
    assert [int(line["rank"]) for line in lines] == list(range(1, len(values) + 1))


def test_the_figure_has_the_slide_twice_a_scale_and_the_tiles(place: Path) -> None:
    found = finding(overlap=0.5)
    values = is_in_spot(found.grid).astype(np.float32)
    with closing(open_slide([place])) as slide:
        figure = slide_map_figure(slide, found, values, is_signed=False, label="Attention of the head")
    assert len(figure.axes) == 3 + 6
    assert figure.axes[2].get_ylabel() == "Attention of the head"
