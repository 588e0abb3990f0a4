"""Values that were asked for and not given are counted, never replaced in silence."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom import dcmread
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    UltrasoundMultiFrameImageStorage,
)
from tifffile import imwrite

from medvit.dataset.manifest import Manifest
from medvit.errors import UnsupportedError
from medvit.readers import find, read
from medvit.readers.image_stack import StacksConfig
from medvit.readers.options import ValuesConfig
from medvit.records import Item
from medvit.types import Image
from pipelines.ingest import IngestConfig, ingest
from tests.dicom.multiframe import counted, frame_group, mapped_by, real_world_mapping, write_multiframe
from tests.plugins.mr_series import AXIAL, slice_header

DX = {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX", "ImageType": ["DERIVED", "PRIMARY"]}
MR = {"SOPClassUID": MRImageStorage, "Modality": "MR"}
PET = {"SOPClassUID": PositronEmissionTomographyImageStorage, "Modality": "PT", "Units": "BQML"}
WINDOW = {"WindowCenter": 100, "WindowWidth": 200}
VALUES = {"radiographs": "displayed", "pet": "SUVbw"}


def fallbacks(files: list[Path]) -> list[str]:
    config = ValuesConfig.parse(VALUES)
    return [read(config.of(found)).fallback for found in find(files)]


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({**DX, **WINDOW}, ""),
        (DX, "values.radiographs=displayed"),
        (PET, "values.pet=SUVbw"),
        ({}, ""),
    ],
    ids=["with a window", "without a window", "PET without a dose", "CT"],
)
def test_an_image_says_which_values_it_could_not_give(write_slice, elements: dict, expected: str) -> None:
    assert fallbacks([write_slice(np.arange(24, dtype=np.uint16).reshape(4, 6), **elements)]) == [expected]


def test_fallbacks_and_frames_without_a_place_are_counted_in_the_log_and_on_the_card(
    write_slice, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "source").mkdir()
    mapped = mapped_by(real_world_mapping())
    for n, elements in enumerate(({**DX, **mapped}, {**DX, **WINDOW}, DX, MR, {**MR, **mapped})):
        pixels = np.random.default_rng(n).integers(0, 200, (32, 32)).astype(np.uint16)
        series = {"SeriesInstanceUID": f"1.2.{n}", "StudyInstanceUID": f"1.3.{n}", "PatientID": f"P{n}"}
        write_slice(pixels, name=f"source/{n}.dcm", **elements, **series)
    cine = {"SOPClassUID": UltrasoundMultiFrameImageStorage, "Modality": "US", "PatientID": "P9"}
    write_multiframe(tmp_path / "source" / "cine.dcm", counted(2, 32, 32), [], **cine)
    options = {"source": tmp_path / "source", "dataset": tmp_path / "dataset", "key": tmp_path / "site.key"}
    with caplog.at_level(logging.INFO, "medvit"):
        tree = {**options, "tracking": {"enabled": False}, "values": VALUES | {"mapping": "FIELD"}}
        failures = ingest.run(IngestConfig.parse(tree)).failures
    assert failures == (
        "values.mapping: 3 of 7 images keep their stored values",
        "values.radiographs=displayed: 2 of 7 images keep their stored values",
    )
    assert "values.radiographs=displayed could not be applied to 2 images" in caplog.text
    card = (tmp_path / "dataset" / "card.md").read_text()
    assert "2 images have stored values although `values.radiographs=displayed` was requested" in card
    rows = Manifest.read(tmp_path / "dataset").rows
    fallen_back = Counter(row.fallback for row in rows)
    assert fallen_back == {"": 2, "values.mapping": 3, "values.radiographs=displayed": 2}
    assert "values.mapping could not be applied to 3 images" in caplog.text
    assert "3 images have stored values although `values.mapping` was requested" in card
    (field_map,) = (row for row in rows if row.unit == "Hz")
    assert (field_map.slope, field_map.attributes["value_mapping"]) == (0.25, "FIELD")
    assert "1 images have real-world value mappings that were not requested" in caplog.text
    assert [row.modality for row in rows if "offered_mappings" in row.attributes] == ["DX"]
    assert "2 frames of 1 multi-frame files are stored as separate images without a position" in caplog.text
    assert (
        "2 images are frames of multi-frame files, taken one by one, without a position in the patient: 2 of US" in card
    )


def _double(path: Path, values: np.ndarray) -> None:
    header = slice_header(*values.shape, (1.0, 1.0), AXIAL, (0.0, 0.0, 0.0))
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        header.pop(keyword, None)
    header.BitsAllocated, header.DoubleFloatPixelData = 64, values.tobytes()
    header.save_as(path, enforce_file_format=True)


DOUBLES: dict[str, Callable[[Path, np.ndarray], object]] = {
    "a.tif": imwrite,
    "a.npz": lambda path, values: np.savez(path, train_images=values[None]),
    "a.nii": lambda path, values: nib.save(nib.Nifti1Image(values[..., None], np.eye(4)), path),
    "a.nrrd": lambda path, values: sitk.WriteImage(sitk.GetImageFromArray(values), str(path)),
    "a.mha": lambda path, values: sitk.WriteImage(sitk.GetImageFromArray(values), str(path)),
    "a.dcm": _double,
}


@pytest.mark.parametrize("name", DOUBLES)
def test_float64_of_every_format_keeps_its_values_or_is_refused(tmp_path: Path, name: str) -> None:
    def taken(values: np.ndarray) -> Image:
        DOUBLES[name](tmp_path / name, values)
        (item,) = find([tmp_path / name])
        assert isinstance(item, Item)
        return read(item)

    whole = np.arange(2.0**24 - 8, 2.0**24 + 8).reshape(4, 4)
    fractions = np.linspace(-1.0, 1.0, 16).reshape(4, 4)
    assert sorted(taken(whole).pixels.ravel().tolist()) == whole.ravel().tolist()
    found = taken(fractions).pixels
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.sort(found.ravel()), fractions.ravel(), rtol=0, atol=2**-24)
    with pytest.raises(UnsupportedError, match="subtract their offset"):
        taken(1e9 + fractions)


def _enhanced(path: Path, frames: np.ndarray) -> list[Path]:
    groups = [frame_group((0.0, 0.0, 2.0 * n)) for n in range(len(frames))]
    write_multiframe(path, np.zeros(frames.shape, np.uint16), groups)
    header = dcmread(path)
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(header, keyword)
    header.BitsAllocated, header.DoubleFloatPixelData = 64, frames.tobytes()
    header.save_as(path, enforce_file_format=True)
    return [path]


def _slices(folder: Path, frames: np.ndarray) -> list[Path]:
    files = []
    for n, frame in enumerate(frames):
        header = slice_header(*frame.shape, (1.0, 1.0), AXIAL, (0.0, 0.0, 2.0 * n))
        for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            header.pop(keyword, None)
        header.BitsAllocated, header.DoubleFloatPixelData = 64, frame.tobytes()
        header.save_as(folder / f"{n}.dcm", enforce_file_format=True)
        files.append(folder / f"{n}.dcm")
    return files


def _pictures(folder: Path, frames: np.ndarray) -> list[Path]:
    for n, frame in enumerate(frames):
        imwrite(folder / f"{n}.tif", frame)
    return [folder / f"{n}.tif" for n in range(len(frames))]


VOLUMES: dict[str, Callable[[Path, np.ndarray], list[Path]]] = {
    "frames": lambda folder, frames: _enhanced(folder / "a.dcm", frames),
    "slices": _slices,
    "pictures": _pictures,
}


@pytest.mark.parametrize("kind", VOLUMES)
def test_float64_is_judged_by_the_range_of_the_image_and_not_of_each_slice(tmp_path: Path, kind: str) -> None:
    def taken(frames: np.ndarray) -> np.ndarray:
        files = VOLUMES[kind](tmp_path, frames)
        (item,) = find(files, stacks=StacksConfig(spacing_mm=(2.0, 1.0, 1.0)) if kind == "pictures" else None)
        assert isinstance(item, Item)
        assert item.kind == "volume"
        return read(item).pixels

    # Float32 separates the values of the whole range, but not those of the second slice among themselves.
    ramp = np.linspace(0.0, 1.0, 20).reshape(4, 5)
    wide = np.stack([1e6 * ramp, 5e5 + 1e-3 * ramp, -1e6 * ramp])
    found = taken(wide)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.sort(found.ravel()), np.sort(wide.ravel()), rtol=0, atol=1e-5 * 2e6)

    # One slice contains a whole number above 2^24, the others do not: all get one type of integers.
    whole = np.arange(60.0).reshape(3, 4, 5)
    whole[1, 2, 3] = 2.0**24 + 1
    found = taken(whole)
    assert found.dtype.kind in "iu"
    assert sorted(found.ravel().tolist()) == sorted(whole.ravel().tolist())

    narrow = 1e9 + np.stack([ramp, ramp, ramp + 1.0])
    with pytest.raises(UnsupportedError, match="subtract their offset"):
        taken(narrow)
