from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from medvit.dataset.export import ExportImage, is_done, write_nifti
from medvit.dataset.store import Store
from medvit.errors import DataError
from medvit.geometry import Affine
from medvit.records import Row

OBLIQUE = np.array([[0.6, -0.8, 0, 5], [0.8, 0.6, 0, -7], [0, 0, 2.5, 11], [0, 0, 0, 1]], float)


def stored_row(folder: Path, pixels: np.ndarray, mask: np.ndarray | None = None, **fields) -> Row:
    store = Store(folder / "images")
    is_volume = pixels.ndim == 4
    return Row(
        **{
            "image_id": "i-1",
            "patient_id": "p-1",
            "study_id": "s-1",
            "series_id": "e-1",
            "modality": "CT" if is_volume else "CR",
            "kind": "volume" if is_volume else "image",
            "dataset": "test",
            "split": "train",
            "shape": pixels.shape,
            "dtype": pixels.dtype.name,
            "sha256": store.put(pixels),
            "mask": None if mask is None else store.put(mask),
            "spacing_mm": Affine(OBLIQUE).spacing_mm if is_volume else None,
            "affine": tuple(OBLIQUE.ravel()) if is_volume else None,
            **fields,
        }
    )


@pytest.fixture
def exporter(tmp_path: Path) -> ExportImage:
    (tmp_path / "out").mkdir()
    return ExportImage("test", tmp_path / "images", tmp_path / "out", ("background", "liver"), compress=True)


def sidecar(folder: Path) -> dict:
    return json.loads((folder / "out" / "i-1.json").read_text())


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8, np.int32, np.float32])
def test_a_volume_keeps_its_place_its_stored_values_and_their_meaning(exporter, tmp_path, dtype):
    pixels = np.random.default_rng(0).integers(0, 100, (1, 3, 4, 5)).astype(dtype)
    row = stored_row(tmp_path, pixels, slope=2.0, intercept=-1024.0, unit="HU")
    exporter(row)
    volume = nib.load(tmp_path / "out" / "i-1.nii.gz")
    assert np.array_equal(volume.dataobj.get_unscaled(), pixels[0])
    assert volume.get_data_dtype() == dtype
    assert np.array_equal(volume.get_fdata(), pixels[0] * 2.0 - 1024.0)
    assert np.abs(volume.affine - OBLIQUE).max() < 1e-6
    assert np.abs(volume.get_qform() - OBLIQUE).max() < 1e-5  # float32
    assert volume.header.get_xyzt_units()[0] == "mm"


def test_the_json_tells_all_of_a_row_and_the_hashes_of_its_files(exporter, tmp_path):
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1, 1, 1] = 1
    exporter(stored_row(tmp_path, np.zeros((1, 3, 4, 5), np.int16), mask, labels={"finding": "none"}, part="phase"))
    described = sidecar(tmp_path)
    expected = {"patient_id": "p-1", "modality": "CT", "split": "train", "labels": {"finding": "none"}, "part": "phase"}
    assert expected.items() <= described.items()
    assert described["mask_classes"] == ["background", "liver"]
    assert sorted(described["files"]) == ["i-1-mask.nii.gz", "i-1.nii.gz"]
    assert np.array_equal(np.asarray(nib.load(tmp_path / "out" / "i-1-mask.nii.gz").dataobj), mask)


@pytest.mark.parametrize(
    ("pixels", "is_lossless"),
    [
        (np.arange(24, dtype=np.uint8).reshape(1, 4, 6), True),
        (np.arange(24, dtype=np.uint16).reshape(1, 4, 6) * 2000, True),
        (np.arange(-12, 12, dtype=np.int16).reshape(1, 4, 6), True),
        (np.arange(72, dtype=np.uint8).reshape(3, 4, 6), True),
        (np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 4, 6), False),
        (np.arange(24, dtype=np.int32).reshape(1, 4, 6) * 100_000, False),
        (np.arange(72, dtype=np.uint16).reshape(3, 4, 6) * 900, False),
    ],
)
def test_a_picture_and_its_json_give_the_real_values_back(exporter, tmp_path, pixels, is_lossless):
    row = stored_row(tmp_path, pixels, slope=0.5, intercept=3.0)
    exporter(row)
    described = sidecar(tmp_path)
    shown = np.asarray(Picture.open(tmp_path / "out" / "i-1.png"))
    assert (described["dtype"], described["stored_dtype"]) == (shown.dtype.name, pixels.dtype.name)
    shown = shown.astype(float)
    shown = shown[None] if shown.ndim == 2 else shown.transpose(2, 0, 1)
    real = pixels * 0.5 + 3.0
    tolerance = 1e-9 if is_lossless else described["slope"] / 2 + 1e-6  # half a step
    assert described["lossless"] == is_lossless
    assert np.abs(shown * described["slope"] + described["intercept"] - real).max() <= tolerance


def test_what_a_picture_cannot_hold_is_refused(exporter, tmp_path):
    with pytest.raises(DataError, match="non-finite"):
        exporter(stored_row(tmp_path, np.full((1, 4, 6), np.nan, np.float32)))
    with pytest.raises(DataError, match="an image of 4 channels"):
        exporter(stored_row(tmp_path, np.zeros((4, 4, 6), np.uint8)))


def test_a_row_is_done_when_its_files_are_whole_and_of_its_pixels(exporter, tmp_path):
    row = stored_row(tmp_path, np.zeros((1, 3, 4, 5), np.int16))
    folder = tmp_path / "out"
    assert not is_done(row, folder)
    exporter(row)
    assert is_done(row, folder)
    assert not is_done(replace(row, sha256="other"), folder)
    (folder / "i-1.nii.gz").write_bytes(b"cut short")
    assert not is_done(row, folder)


def test_equal_volumes_make_equal_files(tmp_path):
    voxels = np.zeros((3, 4, 5), np.int16)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, voxels, Affine(OBLIQUE))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
