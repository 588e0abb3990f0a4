"""Slides whose pixels remain in their files: their locations are stored next to the key, tiles are read on demand."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.samples import Samples, TileSamples, are_tiles, samples_of, some_tiles
from medvit.errors import DataError
from medvit.phantoms.slide import slide, write_tiff
from medvit.records import Row
from medvit.transforms.preprocess import Normalization, Preprocess
from medvit.wsi.locations import SlideFiles, SlidesConfig, open_row, write_locations
from medvit.wsi.slide import open_slide
from medvit.wsi.tiles import BLURRED, TileGrid

PREPROCESS = Preprocess(kind="image", channels=3, intensity=Normalization(method="range"))
SIZE = 64


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    rows = []
    for number in range(2):
        path = tmp_path / "source" / f"slide-{number}.tif"
        write_tiff(path, slide(np.random.default_rng(number), "tumor", shape=(320, 480)).pixels)
        opened = open_slide(path)
        names = (f"i-{number}", f"p-{number}", f"s-{number}", f"e-{number}", "SM", "slide", "phantoms", "train")
        rows.append(Row(*names, (3, *opened.shape), "uint8", "0" * 64, {"label": "tumor"}, mpp=opened.mpp))
        xy = np.array([[64 * n, 64] for n in range(3 + number)], np.int64)
        tissue, flags = np.ones(len(xy), np.float32), np.zeros(len(xy), np.uint8)
        flags[0] = BLURRED
        TileGrid(xy, SIZE, opened.mpp, tissue, flags).write(tmp_path / "dataset", rows[-1].image_id)
        write_locations(tmp_path / "site.key", "phantoms", {rows[-1].image_id: SlideFiles((str(path),))})
    return Manifest(tuple(rows), Facts("phantoms"), tmp_path / "dataset")


@pytest.fixture(autouse=True)
def dataset_folder(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()


def test_where_slides_lie_is_for_the_owner_alone_and_not_in_the_dataset(manifest: Manifest, tmp_path: Path):
    places = tmp_path / "site.key.slides" / "phantoms.json"
    assert places.stat().st_mode & 0o077 == 0
    assert set(json.loads(places.read_text())) == {"i-0", "i-1"}
    stored = b"".join(path.read_bytes() for path in (tmp_path / "dataset").rglob("*") if path.is_file())
    assert b"source" not in stored


def test_a_row_opens_its_slide_and_keeps_it_open(manifest: Manifest, tmp_path: Path):
    first = open_row(manifest.rows[0], tmp_path / "site.key")
    assert first.shape == manifest.rows[0].shape[1:]
    assert open_row(manifest.rows[0], tmp_path / "site.key") is first


def test_slides_that_were_moved_are_found_in_another_folder(manifest: Manifest, tmp_path: Path):
    shutil.move(tmp_path / "source", tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"the slide file is not at its recorded location; set slides\.folder"):
        open_row(manifest.rows[1], tmp_path / "site.key")
    assert open_row(manifest.rows[1], tmp_path / "site.key", tmp_path / "elsewhere").mpp == manifest.rows[1].mpp


def test_a_slide_of_nobody_knows_where_or_another_in_its_place_is_refused(manifest: Manifest, tmp_path: Path):
    row = manifest.rows[0]
    with pytest.raises(DataError, match=r"slide i-9: no location of this slide is recorded"):
        open_row(replace(row, image_id="i-9"), tmp_path / "site.key")
    with pytest.raises(DataError, match="a different slide is at the recorded location"):
        open_row(replace(row, shape=(3, 10, 10)), tmp_path / "site.key", tmp_path / "source")


def test_tiles_are_samples_of_the_same_patient_study_and_labels(manifest: Manifest, tmp_path: Path):
    tiles = TileSamples(manifest, PREPROCESS, SlidesConfig(key=tmp_path / "site.key"))
    assert (len(tiles), tiles.lengths) == (7, (3, 4))
    sample = tiles[4]
    pixels = open_slide(tmp_path / "source" / "slide-1.tif").read(64, 64, SIZE, 0.5)
    np.testing.assert_allclose(sample.pixels.numpy() * 255, pixels, atol=1e-3)  # gray levels
    row = sample.row
    assert (row.kind, row.patient_id, row.study_id, row.shape) == ("image", "p-1", "s-1", (3, SIZE, SIZE))
    assert (row.labels, row.part) == ({"label": "tumor"}, "tile at (64, 64)")
    assert len({tiles[n].row.image_id for n in range(7)}) == 7


def test_flagged_tiles_are_left_out_on_demand(manifest: Manifest, tmp_path: Path):
    config = SlidesConfig(key=tmp_path / "site.key", skip_tiles=("blurred",))
    assert TileSamples(manifest, PREPROCESS, config).lengths == (2, 3)


def test_a_few_tiles_make_a_manifest_that_samples_read(manifest: Manifest, tmp_path: Path):
    config = SlidesConfig(key=tmp_path / "site.key")
    few = some_tiles(manifest, config, count=4, seed=0)
    assert len(few) == 4
    assert {sample.pixels.shape for sample in map(Samples(few, PREPROCESS, slides=config).__getitem__, range(4))} == {
        (3, SIZE, SIZE)
    }


def test_pictures_of_a_dataset_come_before_the_tiles_of_its_slides_which_is_told(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
):
    assert are_tiles(manifest, PREPROCESS)
    mixed = replace(manifest, rows=(*manifest.rows, replace(manifest.rows[0], kind="image")))
    assert not are_tiles(mixed, PREPROCESS)
    assert len(samples_of(mixed, PREPROCESS, SlidesConfig())) == 1
    assert "2 slides are not used" in caplog.text
