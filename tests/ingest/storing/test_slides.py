"""Slides from their files to a dataset: rows, tiles, pictures, and one sentence for each that is not taken."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tifffile

from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.phantoms.dicom import PhantomPatient
from medvit.phantoms.slide import slide, write_tiff
from medvit.phantoms.slide_dicom import write_dicom_slide
from medvit.records import Row
from medvit.wsi.locations import open_row
from medvit.wsi.slide import open_slide
from medvit.wsi.tiles import TileGrid
from pipelines.ingest import IngestConfig, ingest

SHAPE = (640, 896)


@cache
def drawn(seed: int, label: str = "tumor") -> np.ndarray:
    pixels = slide(np.random.default_rng(seed), label, shape=SHAPE).pixels
    pixels.flags.writeable = False
    return pixels


def run(tmp_path: Path, name: str = "dataset", **options) -> Manifest:
    tree = {
        "source": str(tmp_path / "source"),
        "dataset": str(tmp_path / name),
        "key": str(tmp_path / "site.key"),
        "name": "slides",
        "tracking": {"enabled": False},
        "taking": {"tiles": {"size": 128, **options.pop("tiles", {})}},
        **options,
    }
    return ingest(IngestConfig.parse(tree))


def cut_short(path: Path) -> None:
    with tifffile.TiffFile(path) as file:
        page = file.pages[-1]
        offset, count = page.tags["TileOffsets"].valueoffset, page.dataoffsets[-1] + page.databytecounts[-1]
    content = bytearray(path.read_bytes())
    assert count <= len(content)
    content[offset : offset + 4] = (len(content) + 100).to_bytes(4, "little")
    path.write_bytes(content)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    write_tiff(folder / "tumor" / "one.tif", drawn(0))
    write_tiff(folder / "normal" / "two.tif", drawn(1, "normal"))
    write_dicom_slide(folder / "dicom" / "three", drawn(2), subject=PhantomPatient(0, 1))
    return folder


def test_slides_become_rows_with_tiles_and_pictures_but_without_pixels(source: Path, tmp_path: Path):
    manifest = run(tmp_path)
    assert [row.kind for row in manifest] == ["slide"] * 3
    assert {row.shape for row in manifest} == {(3, *SHAPE)}
    assert [row.mpp for row in manifest] == pytest.approx([0.5] * 3, rel=1e-3)
    for row in manifest:
        grid = TileGrid.read(tmp_path / "dataset", row.image_id)
        assert (len(grid) > 5, grid.size) == (True, 128)
        opened = open_row(row, tmp_path / "site.key")
        assert opened.read(*map(int, grid.xy[-1]), grid.size, grid.mpp).shape == (3, 128, 128)
        assert (tmp_path / "dataset" / "card" / f"slide-{row.image_id}.png").is_file()
    stored = sum(path.stat().st_size for path in (tmp_path / "dataset" / "images").rglob("*.b2nd"))
    assert stored < 3 * 3 * 512 * 512


def test_the_card_tells_of_slides(source: Path, tmp_path: Path):
    run(tmp_path)
    card = (tmp_path / "dataset" / "card.md").read_text()
    assert "tiles of 128 x 128 pixels on 3 slides of " in card
    assert "| slides, SM | 3 |" in card


def test_the_card_counts_slides_patients_and_tiles_of_each_class_and_tissue_but_once(tmp_path: Path):
    for number, label in enumerate(("normal", "normal", "tumor", "tumor", "normal", "normal")):
        path = tmp_path / "classes" / label / f"patient-{number // 2:03d}-slide-{number}.tif"
        write_tiff(path, drawn(number, label))
    options = {"labeling": {"from_folders": "folder"}, "scanning": {"patient_from": r"(patient-\d+)"}}
    areas = []
    for overlap in (0.0, 0.5):
        tiles = {"size": 128, "overlap": overlap}
        manifest = run(tmp_path, f"{overlap}", source=str(tmp_path / "classes"), tiles=tiles, **options)
        card = (manifest.folder / "card.md").read_text()
        assert "on 6 slides of 3 patients" in card
        grids = {row.image_id: TileGrid.read(manifest.folder, row.image_id) for row in manifest}
        for name, slides, patients in (("normal", 4, 2), ("tumor", 2, 1)):
            num_tiles = sum(len(grids[row.image_id]) for row in manifest if row.labels["label"] == name)
            assert f"| {name} | {slides} | {patients} | {num_tiles:,} |" in card
        areas.append([grids[row.image_id].facts["tissue_mm2"] for row in manifest])
    assert areas[0] == areas[1]


def test_labels_of_dicom_slides_are_left_out_and_their_patients_known(source: Path, tmp_path: Path):
    run(tmp_path)
    reasons = [entry.reason for entry in quarantine.read(tmp_path / "dataset")]
    assert reasons == ["the label picture of a slide, which may show names"]


def test_what_cannot_be_taken_is_told_in_a_sentence_each_and_the_rest_goes_on(source: Path, tmp_path: Path):
    (source / "broken.svs").write_text("no slide at all\n" * 60)
    write_tiff(source / "unknown-scale.tif", drawn(3), mpp=None)
    write_tiff(source / "blank.tif", np.full((*SHAPE, 3), 243, np.uint8))
    write_tiff(source / "short.tif", drawn(4))
    cut_short(source / "short.tif")
    manifest = run(tmp_path)
    assert len(manifest) == 3
    reasons = " / ".join(entry.reason for entry in quarantine.read(tmp_path / "dataset"))
    assert "not of a supported slide format" in reasons
    assert "has no microns per pixel" in reasons
    assert "no tissue was found on the slide, only blank glass" in reasons
    assert "is cut short or damaged" in reasons


def test_microns_per_pixel_can_be_given_and_make_plain_tiff_slides(tmp_path: Path):
    (tmp_path / "source").mkdir()
    tifffile.imwrite(tmp_path / "source" / "plain.tif", drawn(5), photometric="rgb")
    assert [row.kind for row in run(tmp_path, "pictures")] == ["image"]
    (row,) = run(tmp_path, "slides", tiles={"slide_mpp": 0.5}).rows
    assert (row.kind, row.mpp) == ("slide", 0.5)
    assert open_row(row, tmp_path / "site.key").mpp == 0.5


def test_packed_tiles_are_images_that_need_no_slide(source: Path, tmp_path: Path):
    grids = {row.image_id: TileGrid.read(tmp_path / "listed", row.image_id) for row in run(tmp_path, "listed")}
    manifest = run(tmp_path, "packed", tiles={"pack": True})
    assert len(manifest) == sum(map(len, grids.values()))
    row: Row = manifest.rows[0]
    assert (row.kind, row.shape, row.mpp) == ("image", (3, 128, 128), pytest.approx(0.5, rel=1e-3))
    x, y = (int(place) for place in row.part.removeprefix("tile at (").split(")")[0].split(", "))
    whole = {key.stem: key for key in source.rglob("*.tif")}
    expected = [open_slide(path).read(x, y, 128, 0.5) for path in whole.values()]
    expected.append(open_slide(source / "dicom" / "three" / "level-0.dcm").read(x, y, 128, 0.5))
    stored = manifest.store.get(row.sha256)
    assert any(np.abs(stored.astype(int) - pixels).max() <= 1 for pixels in expected)
    assert not (tmp_path / "packed" / "tiles").exists()


def test_slides_that_have_not_changed_are_taken_over_from_an_earlier_dataset(source: Path, tmp_path: Path):
    earlier = run(tmp_path, "earlier")
    grid = tmp_path / "earlier" / "tiles" / f"{earlier.rows[0].image_id}.parquet"
    later = run(tmp_path, "later", update=str(tmp_path / "earlier"))
    assert later.hash == earlier.hash
    assert (tmp_path / "later" / "tiles" / grid.name).read_bytes() == grid.read_bytes()


def test_an_aperio_slide_is_ingested(shared_data: Path, tmp_path: Path):
    (row,) = run(tmp_path, source=str(shared_data / "wsi" / "cmu-1-small-region.svs"), tiles={"size": 256}).rows
    grid = TileGrid.read(tmp_path / "dataset", row.image_id)
    assert (row.mpp, grid.mpp) == (0.499, 0.499)  # a level near 20x is taken as it is
    assert 40 <= len(grid) <= 60
    assert not grid.flags.any()
