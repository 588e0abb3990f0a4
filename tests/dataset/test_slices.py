"""Slices of volumes: selection, orientation, patients, and that only the selected slices are read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.samples import Samples, load
from medvit.dataset.slices import SlicesConfig, across_of, slices_of, stacked
from medvit.dataset.store import Store
from medvit.errors import ConfigError
from medvit.geometry import Affine
from medvit.records import Row
from medvit.transforms.preprocess import Preprocess

SHAPE = (4, 6, 5)
"""Voxels along R, A and S."""
SHARED = {"modality": "CT", "dataset": "tiny", "split": "train", "dtype": "int16"}


def dataset(folder: Path, *, spacing_mm=(1.0, 1.0, 3.0)) -> Manifest:
    """One volume of two channels with a mask, in HU, and one image."""
    manifest = Manifest((), Facts("tiny"), folder)
    voxels = np.arange(2 * np.prod(SHAPE), dtype=np.int16).reshape(2, *SHAPE)
    mask, image = (voxels[0] % 3).astype(np.uint8), np.zeros((1, 7, 8), np.int16)
    volume = Row("v", "p", "st", "se", kind="volume", shape=voxels.shape, sha256=manifest.store.put(voxels), **SHARED)
    volume = replace(volume, labels={"label": "sick"}, spacing_mm=spacing_mm, intercept=-1024.0, unit="HU")
    volume = replace(volume, mask=manifest.store.put(mask))
    flat = Row("w", "q", "su", "sf", kind="image", shape=image.shape, sha256=manifest.store.put(image), **SHARED)
    return replace(manifest, rows=(volume, flat))


def cut(manifest: Manifest, **options) -> list[Row]:
    return [row for row in SlicesConfig(**options).of(manifest) if row.image_id != "w"]


@pytest.mark.parametrize(
    ("plane", "count", "shape"), [("axial", 5, (6, 4)), ("coronal", 6, (5, 4)), ("sagittal", 4, (5, 6))]
)
def test_every_slice_of_a_plane_is_an_image_of_the_same_patient_with_label_mask_and_unit(tmp_path, plane, count, shape):
    manifest = dataset(tmp_path)
    rows = cut(manifest, planes=[plane])
    assert len(rows) == count == len({row.image_id for row in rows})
    for row in rows:
        assert (row.kind, row.patient_id, row.study_id, row.series_id) == ("image", "p", "st", "se")
        assert row.labels == {"label": "sick"}
        image = load(manifest, row)
        assert image.pixels.shape == row.shape == (2, *shape)
        np.testing.assert_array_equal(image.mask, image.pixels[0] % 3)
        assert (image.kind, image.unit, image.affine) == ("image", "HU", None)
        np.testing.assert_array_equal(image.intensities(), image.pixels - 1024.0)


@pytest.mark.parametrize(
    ("plane", "corner"),
    [
        ("axial", lambda number: (3, 5, number)),  # above left: R, A
        ("coronal", lambda number: (3, number, 4)),  # R, S
        ("sagittal", lambda number: (number, 5, 4)),  # A, S
    ],
)
def test_a_slice_is_the_way_up_that_people_are_used_to(tmp_path, plane, corner):
    manifest = dataset(tmp_path)
    voxels = load(manifest, manifest.rows[0]).pixels
    rows = cut(manifest, planes=[plane])
    assert len(rows) > 1
    for number, row in enumerate(rows):
        pixels = load(manifest, row).pixels
        first = corner(number)
        last = tuple(number if axis == row.across else 0 for axis in range(3))
        assert pixels[0, 0, 0] == voxels[0, *first]
        assert pixels[1, -1, -1] == voxels[1, *last]


@pytest.mark.parametrize(("spacing_mm", "count"), [((1.0, 1.0, 3.0), 5), ((1.0, 2.0, 1.0), 6), ((5.0, 1.0, 1.0), 4)])
def test_the_acquired_plane_is_across_the_largest_spacing(tmp_path, spacing_mm, count):
    assert len(cut(dataset(tmp_path, spacing_mm=spacing_mm), planes=["acquired"])) == count


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"gap_mm": 3.0}, [0, 1, 2, 3, 4]),
        ({"gap_mm": 3.1}, [0, 2, 4]),
        ({"gap_mm": 9.0}, [0, 3]),
        ({"margin": 0.2}, [1, 2, 3]),
        ({"margin": 0.4}, [2]),
    ],
)
def test_slices_are_as_far_apart_as_asked_for_and_the_ends_are_left_out(tmp_path, options, numbers):
    assert [row.number for row in cut(dataset(tmp_path), **options)] == numbers


def test_several_planes_are_cut_and_one_that_is_named_twice_is_cut_once(tmp_path):
    assert len(cut(dataset(tmp_path), planes=["axial", "coronal", "sagittal"])) == 15
    assert len(cut(dataset(tmp_path), planes=["axial", "acquired"])) == 5


def test_images_stay_and_a_dataset_without_volumes_is_told_of(tmp_path, caplog):
    manifest = dataset(tmp_path)
    flat = replace(manifest, rows=manifest.rows[1:])
    assert SlicesConfig().of(manifest).rows[-1] is manifest.rows[1]
    assert not caplog.text
    assert SlicesConfig().of(flat) is flat
    assert "slices is ignored: " in caplog.text


def test_only_the_slice_is_read_and_nothing_is_written(tmp_path, monkeypatch):
    manifest = dataset(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    asked, get = [], Store.get
    monkeypatch.setattr(
        Store, "get", lambda store, address, region=(): asked.append(region) or get(store, address, region)
    )
    load(manifest, cut(manifest)[3])
    assert asked == [(slice(None), slice(None), slice(None), slice(3, 4)), (slice(None), slice(None), slice(3, 4))]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_word_names_the_plane_and_a_wrong_one_is_refused():
    from pipelines.pretrain import PretrainConfig

    options = {"dataset": "d", "output": "o"}
    assert PretrainConfig.parse(options).slices is None
    assert PretrainConfig.parse(options | {"slices": "coronal"}).slices == SlicesConfig(planes=("coronal",))
    assert PretrainConfig.parse(options | {"slices": ["axial", "sagittal"]}).slices.planes == ("axial", "sagittal")
    with pytest.raises(ConfigError, match=r"slices\.planes\.0: input should be 'axial', 'coronal'"):
        PretrainConfig.parse(options | {"slices": "oblique"})


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_neighbors_are_channels_and_the_outermost_stand_for_those_beyond(tmp_path, plane):
    manifest = dataset(tmp_path)
    alone = [load(manifest, row).pixels for row in cut(manifest, planes=[plane])]
    rows = cut(manifest, planes=[plane], neighbors=1)
    assert len(rows) == len(alone)
    for number, row in enumerate(rows):
        before, after = alone[max(number - 1, 0)], alone[min(number + 1, len(alone) - 1)]
        pixels = load(manifest, row).pixels
        assert pixels.shape == row.shape
        np.testing.assert_array_equal(pixels, np.concatenate([before, alone[number], after]))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "acquired"])
def test_a_volume_in_memory_is_cut_as_the_stored_one_and_its_masks_go_back(tmp_path, plane):
    manifest = dataset(tmp_path)
    config = SlicesConfig(planes=[plane], neighbors=2)
    volume = load(manifest, manifest.rows[0])
    affine = Affine.from_spacing((1.0, 1.0, 3.0))
    parts = list(slices_of(replace(volume, affine=affine), config))
    for part, row in zip(parts, cut(manifest, planes=[plane], neighbors=2), strict=True):
        np.testing.assert_array_equal(part.pixels, load(manifest, row).pixels)
    masks = [load(manifest, row).mask for row in cut(manifest, planes=[plane])]
    across = across_of(replace(volume, affine=affine), config)
    np.testing.assert_array_equal(stacked(masks, across), volume.mask)


def test_a_model_of_slices_is_of_one_plane():
    with pytest.raises(ConfigError, match="a slice model needs exactly one plane"):
        SlicesConfig(planes=["axial", "coronal"]).single()


@pytest.mark.parametrize(
    ("plane", "spacing"), [("axial", (2.0, 1.0)), ("coronal", (3.0, 1.0)), ("sagittal", (3.0, 2.0))]
)
def test_a_sample_of_a_slice_knows_the_distance_of_its_rows_and_columns(tmp_path, plane, spacing):
    manifest = dataset(tmp_path, spacing_mm=(1.0, 2.0, 3.0))
    slices = replace(manifest, rows=tuple(cut(manifest, planes=[plane])))
    assert Samples(slices, Preprocess(kind="image"))[0].spacing == pytest.approx(spacing)
