"""Bit-packed segmentations are read right by every reader, whatever the size of their frames."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.pixels.utils import pack_bits
from pydicom.uid import generate_uid

from medvit.readers import find, read
from medvit.records import Item
from medvit.types import Image, Prediction
from medvit.writers.dicom_parts.bit_packing import is_unambiguous, num_bytes, num_to_keep
from medvit.writers.dicom_parts.source_instances import read_sources
from medvit.writers.dicom_seg import AMBIGUOUS, EMPTY, write_seg
from tests.plugins.mr_series import AXIAL, slice_header
from tests.writers.seg_readers import Ohif, install_ohif, labels_by_dcmqi
from tests.writers.test_dicom_seg import context_of, errors_of

SIZES = [(34, 50), (35, 51), (33, 47), (8, 10), (6, 4), (181, 217), (3, 7), (16, 16)]
CLASSES = ("background", "Liver", "Spleen", "Kidney")


@pytest.fixture(scope="session")
def ohif(tmp_path_factory: pytest.TempPathFactory) -> Ohif:
    return install_ohif(tmp_path_factory.mktemp("ohif"))


def write_series(folder: Path, rows: int, columns: int, num_slices: int) -> tuple[Item, Image]:
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    folder.mkdir()
    for k in range(num_slices):
        header = slice_header(rows, columns, (1.5, 0.8), AXIAL, np.array([-20.0, 30.0, 40.0 + 2 * k]))
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
        header.InstanceNumber = k + 1
        header.PixelData = np.full((rows, columns), k, np.uint16).tobytes()
        header.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    (item,) = find(sorted(folder.iterdir()))
    assert isinstance(item, Item)
    return item, read(item)


def mask_in(image: Image, planes: dict[int, tuple[int, ...]], seed: int = 0) -> Prediction:
    """Mask of random voxels, with the given classes in the given planes."""
    generator = np.random.default_rng(seed)
    mask = np.zeros(image.pixels.shape[1:], np.uint8)
    for plane, labels in planes.items():
        shape = mask.shape[:2]
        mask[..., plane] = generator.choice([0, *labels], size=shape)
        for n, label in enumerate(labels):  # at least the corners, where an error of packing shows first
            mask.reshape(-1, mask.shape[2])[[n, -1 - n], plane] = label
    return Prediction(CLASSES, mask=mask, affine=image.affine)


def expected_frames(path: Path, image: Image, prediction: Prediction) -> np.ndarray:
    """Frames as the file describes them: the pixels of its segment in the plane of its position."""
    assert image.affine is not None
    assert prediction.mask is not None
    frames = []
    for group in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        i, j, k = np.round(image.affine.inverse()(np.array([[-x, -y, z]]))).astype(int)[0]
        plane = prediction.mask[..., k].T  # rows, columns of a RAS+ grid
        plane = plane[:: 1 if j == 0 else -1, :: 1 if i == 0 else -1]
        frames.append(plane == group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
    return np.array(frames, np.uint8)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_frames_are_added_until_no_reader_can_mistake_the_packing(rows: int, columns: int) -> None:
    pixels = rows * columns
    for used, available in product(range(1, 40), (0, 1, 3, 15, 100)):
        added = num_to_keep(pixels, used, available)
        possible = [n for n in range(available + 1) if is_unambiguous(pixels, used + n)]
        if added is None:
            assert not possible
        else:
            assert added <= min(15, available)
            assert added in possible
            assert pixels * (used + added) % 16 == 0 or available < 15
        if available >= 15:
            assert pixels * (used + added) % 16 == 0


def test_what_is_called_unambiguous_is_what_the_viewer_reads_right(ohif: Ohif, tmp_path: Path) -> None:
    cases = {}
    for (rows, columns), num_frames in product(SIZES, (1, 2, 3, 4, 5, 8, 16)):
        frames = np.random.default_rng(num_frames).integers(0, 2, (num_frames, rows, columns)).astype(np.uint8)
        path = tmp_path / f"{rows}-{columns}-{num_frames}.dcm"
        dataset = slice_header(rows, columns, (1.0, 1.0), AXIAL, np.zeros(3))
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.NumberOfFrames = 1, 1, 0, num_frames
        dataset.SegmentationType, dataset.PixelData = "BINARY", pack_bits(frames.ravel())
        dataset.save_as(path, enforce_file_format=True)
        cases[path] = (frames, is_unambiguous(rows * columns, num_frames))
    for found, (frames, is_right) in zip(ohif.frames(list(cases)), cases.values(), strict=True):
        assert (found is not None and np.array_equal(found, frames)) == is_right
    assert {is_right for _, is_right in cases.values()} == {True, False}


@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("planes", [{2: (1,)}, {0: (1, 3), 3: (1,)}, dict.fromkeys(range(6), (1, 2, 3))])
def test_every_reader_finds_the_pixels_that_were_written(
    ohif: Ohif, tmp_path: Path, rows: int, columns: int, planes: dict[int, tuple[int, ...]]
) -> None:
    item, image = write_series(tmp_path / "source", rows, columns, 6)
    prediction = mask_in(image, planes)
    path = tmp_path / "seg.dcm"
    notes = write_seg(path, context_of(item, prediction, image), read_sources(item))
    seg = pydicom.dcmread(path)
    expected = expected_frames(path, image, prediction)
    assert expected.sum() == np.count_nonzero(prediction.mask)
    assert len(seg.PixelData) == num_bytes(rows * columns, len(expected))
    np.testing.assert_array_equal(seg.pixel_array.reshape(expected.shape), expected)
    assert notes == ([] if is_unambiguous(rows * columns, len(expected)) else [AMBIGUOUS])
    (by_ohif,) = ohif.frames([path])
    assert notes or np.array_equal(by_ohif, expected)
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    assert np.count_nonzero(volume.array) == expected.sum()
    by_dcmqi = labels_by_dcmqi(path, tmp_path / "dcmqi")
    assert by_dcmqi.keys() >= {label for labels in planes.values() for label in labels}
    for number, found in by_dcmqi.items():
        assert np.count_nonzero(found.get_fdata()) == np.count_nonzero(prediction.mask == number)
    assert errors_of(path) == []


def test_the_number_of_a_class_is_the_same_in_every_study(tmp_path: Path) -> None:
    item, image = write_series(tmp_path / "source", 34, 50, 3)
    for planes in ({}, {0: (3,)}, {1: (1, 2)}):
        write_seg(tmp_path / "seg.dcm", context_of(item, mask_in(image, planes), image), read_sources(item))
        seg = pydicom.dcmread(tmp_path / "seg.dcm")
        numbers = {int(one.SegmentNumber): one.SegmentLabel for one in seg.SegmentSequence}
        assert numbers == dict(enumerate(CLASSES[1:], start=1))


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (35, 51)])
def test_an_empty_result_is_an_object_that_opens_and_is_reported(
    ohif: Ohif, tmp_path: Path, rows: int, columns: int
) -> None:
    item, image = write_series(tmp_path / "source", rows, columns, 6)
    path = tmp_path / "seg.dcm"
    assert write_seg(path, context_of(item, mask_in(image, {}), image), read_sources(item)) == [EMPTY]
    assert errors_of(path) == []
    (by_ohif,) = ohif.frames([path])
    assert by_ohif is not None
    assert not by_ohif.any()
    assert not pydicom.dcmread(path).pixel_array.any()
    assert not hd.seg.segread(path).get_volume(combine_segments=True).array.any()
    assert not any(found.get_fdata().any() for found in labels_by_dcmqi(path, tmp_path / "dcmqi").values())
    assert int(pydicom.dcmread(path).NumberOfFrames) == (1 if rows == 16 else 16)
