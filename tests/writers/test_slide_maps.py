"""Maps, squares and annotations are where the tiles are, in the scale of the slide."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace

import highdicom as hd
import numpy as np
import openslide
import pydicom
import pytest
from PIL import Image as Picture

from medvit.errors import UnsupportedError
from medvit.models.slide import SlideReading
from medvit.phantoms import write_slide_studies
from medvit.readers import find
from medvit.records import Item
from medvit.writers import Maker, SlideContext
from medvit.writers.dicom_ann import write_ann
from medvit.writers.dicom_parts.source_instances import Sources, read_sources
from medvit.writers.geojson import write_geojson
from medvit.writers.heatmap import colored, write_heatmap
from medvit.writers.slide_maps import SlideFinding, attention_map, class_map
from medvit.writers.slide_preview import write_slide_preview
from medvit.wsi.slide import open_slide
from medvit.wsi.tiles import TileGrid
from tests.wsi.slides import HEIGHT, MPP, SIZE, WIDTH, grid, is_in_spot, picture, write_slide

CLASSES = ("normal", "tumor")
MAKER = Maker("0.1.0", "ab" * 32)


def finding(tiles: TileGrid, shape: tuple[int, int] = (HEIGHT, WIDTH), mpp: float = MPP, high=None) -> SlideFinding:
    """A model that sees tumor in the spot, or in the tiles that are given, and looks there."""
    seen = np.where(is_in_spot(tiles) if high is None else high, 0.9, 0.2)
    attention = (seen / seen.sum()).astype(np.float32)
    scores = np.stack([1 - seen, seen], axis=1).astype(np.float32)
    reading = SlideReading(np.array([0.3, 0.7]), np.array([[0.3, 0.7]]), attention[None], scores)
    return SlideFinding(tiles, reading, CLASSES, shape, mpp)


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_map_has_the_value_of_each_tile_in_its_place(overlap):
    tiles = replace(grid(overlap), facts={"overlap": str(overlap)})
    heat = class_map(finding(tiles), 1)
    assert heat.cell == SIZE * (1 - overlap)
    for (x, y), value in zip(tiles.xy, finding(tiles).reading.scores[:, 1], strict=True):
        cell = heat.values[round(y / heat.cell), round(x / heat.cell)]
        assert not np.isnan(cell)
        assert overlap or cell == pytest.approx(value)
    assert np.isnan(heat.values[:, 0]).all()  # glass has no tiles
    assert heat.values.shape == (HEIGHT // heat.cell, WIDTH // heat.cell)


def test_tiles_of_a_slide_whose_scale_is_no_whole_number_do_not_drift():
    side = 256 * 0.5 / 0.4987
    places = np.floor(np.arange(0, 200_000 - side, side)).astype(np.int64)
    xy = np.stack([places, np.zeros_like(places)], axis=1)
    tiles = TileGrid(xy, 256, 0.5, np.ones(len(xy), np.float32), np.zeros(len(xy), np.uint8))
    heat = attention_map(finding(tiles, (300, 200_000), 0.4987, high=np.ones(len(xy), bool)))
    assert not np.isnan(heat.values[0, : len(xy)]).any()


def test_attention_is_shown_by_rank():
    values = attention_map(finding(grid())).values
    assert np.nanmax(values) == 1.0
    assert np.nanmin(values) == pytest.approx(1 / len(grid()))


def test_a_heat_map_opens_in_openslide_with_its_scale_and_its_levels(tmp_path):
    tiles = replace(grid(), xy=grid().xy * 10)
    found = finding(tiles, (HEIGHT * 10, WIDTH * 10), MPP / 10, high=np.arange(len(tiles)) % 3 == 0)
    heat = class_map(found, 1)
    write_heatmap(tmp_path / "heat.tif", heat, "class")
    slide = openslide.OpenSlide(tmp_path / "heat.tif")
    assert slide.level_dimensions == ((512, 384), (256, 192))
    mpp = float(slide.properties[openslide.PROPERTY_NAME_MPP_X])
    assert mpp * slide.dimensions[0] == pytest.approx(MPP * WIDTH, rel=1e-4)  # microns
    pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    expected = colored(heat.values, "class").repeat(64, axis=0).repeat(64, axis=1)
    np.testing.assert_array_equal(pixels, expected)


def test_a_large_heat_map_has_levels_that_show_the_same(tmp_path):
    cells = np.random.default_rng(0).random((280, 200))
    write_heatmap(tmp_path / "heat.tif", replace(class_map(finding(grid()), 1), values=cells), "attention")
    slide = openslide.OpenSlide(tmp_path / "heat.tif")
    assert slide.level_dimensions == tuple((200 * n, 280 * n) for n in (16, 8, 4, 2, 1))
    smallest = np.asarray(slide.read_region((0, 0), 4, (200, 280)).convert("RGB"))
    np.testing.assert_array_equal(smallest, colored(cells, "attention"))


def test_geojson_is_what_qupath_takes(tmp_path):
    found = finding(grid())
    write_geojson(tmp_path / "tiles.geojson", found)
    tree = json.loads((tmp_path / "tiles.geojson").read_text())
    assert tree["type"] == "FeatureCollection"
    assert len(tree["features"]) == len(found.grid)
    assert len({feature["id"] for feature in tree["features"]}) == len(found.grid)
    for feature, (x, y), is_tumor in zip(tree["features"], found.grid.xy.tolist(), is_in_spot(found.grid), strict=True):
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1] == [x, y]
        assert ring[2] == [x + SIZE, y + SIZE]
        properties = feature["properties"]
        assert properties["objectType"] == "tile"
        assert properties["classification"]["name"] == CLASSES[int(is_tumor)]
        assert len(properties["classification"]["color"]) == 3
        assert properties["measurements"].keys() == {"attention", "p(normal)", "p(tumor)"}


def test_top_tiles_do_not_overlap():
    found = finding(grid(0.5))
    chosen = found.grid.xy[found.top(4)]
    assert is_in_spot(found.grid)[found.top(4)].all()
    for n, one in enumerate(chosen):
        assert all(np.abs(one - other).max() >= SIZE for other in chosen[:n])


def test_the_preview_shows_the_slide_its_maps_and_its_top_tiles(tmp_path):
    slide = open_slide(write_slide(tmp_path / "slide.tif", picture(0, has_tumor=True)))
    write_slide_preview(tmp_path / "preview.png", slide, finding(grid()))
    assert Picture.open(tmp_path / "preview.png").size[0] >= 3 * WIDTH


@pytest.fixture(scope="module")
def dicom_slide(tmp_path_factory) -> Item:
    folder = tmp_path_factory.mktemp("dicom")
    write_slide_studies(folder, 1)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    (item,) = [found for found in find(files) if isinstance(found, Item)]
    return item


def dicom_finding(item: Item) -> SlideFinding:
    slide = open_slide(item.files)
    x, y = np.meshgrid(np.arange(0, 1024, 256), np.arange(0, 1024, 256))
    xy = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int64)
    tiles = TileGrid(xy, 256, slide.mpp, np.ones(len(xy), np.float32), np.zeros(len(xy), np.uint8))
    return finding(tiles, slide.shape, slide.mpp, high=np.arange(len(xy)) % 4 == 0)


def context_of(item: Item, found: SlideFinding, codes: Mapping[str, str] | None = None) -> SlideContext:
    slide = open_slide(item.files)
    return SlideContext(item, MAKER, codes or {}, slide=slide, prediction=found)


def test_annotations_of_a_dicom_slide_lie_on_its_tiles_and_in_its_study(dicom_slide, tmp_path):
    found = dicom_finding(dicom_slide)
    sources = read_sources(dicom_slide)
    context = context_of(dicom_slide, found, {"tumor": "SCT:108369006:Neoplasm"})
    assert write_ann(tmp_path / "ann.dcm", context, sources) == []
    read = hd.ann.annread(tmp_path / "ann.dcm")
    assert read.StudyInstanceUID == sources.headers[0].StudyInstanceUID
    assert read.PatientID == sources.headers[0].PatientID
    groups = {group.label: group for group in read.get_annotation_groups()}
    assert groups.keys() == set(CLASSES)
    assert groups["tumor"].annotated_property_type.value == "108369006"
    squares = groups["tumor"].get_graphic_data(hd.ann.AnnotationCoordinateTypeValues.SCOORD)
    corners = found.grid.xy[found.reading.scores[:, 1] > 0.5]
    np.testing.assert_array_equal([square[0] for square in squares], corners)
    np.testing.assert_array_equal([square[2] for square in squares], corners + 256)
    names, values, _ = groups["tumor"].get_measurements()
    assert [name.meaning for name in names] == ["Attention of the model", "Probability of the class"]
    np.testing.assert_allclose(values[:, 1], 0.9)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_annotations_pass_the_validator(dicom_slide, tmp_path):
    write_ann(tmp_path / "ann.dcm", context_of(dicom_slide, dicom_finding(dicom_slide)), read_sources(dicom_slide))
    checked = subprocess.run(["dciodvfy", tmp_path / "ann.dcm"], capture_output=True, text=True, check=False)
    errors = [line for line in (checked.stdout + checked.stderr).splitlines() if line.startswith("Error")]
    # dciodvfy finds fault with an attribute of 3D coordinates, which a file of 2D ones must not have and has not.
    groups = pydicom.dcmread(tmp_path / "ann.dcm").AnnotationGroupSequence
    assert not any("CommonZCoordinateValue" in group for group in groups)
    assert [error for error in errors if "<CommonZCoordinateValue> = <>" not in error] == []


def test_a_source_without_a_whole_picture_gets_no_annotations(dicom_slide, tmp_path):
    headers = read_sources(dicom_slide).headers
    for header in headers:
        header.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    with pytest.raises(UnsupportedError, match="no file of the source is a whole-slide image"):
        write_ann(tmp_path / "ann.dcm", context_of(dicom_slide, dicom_finding(dicom_slide)), Sources(headers))
