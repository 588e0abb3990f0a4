"""Pixels read behind a known header equal those of a full read; otherwise the file is read in full."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import MRImageStorage, PositronEmissionTomographyImageStorage, RLELossless

from medvit.dicom.direct_read import read_native
from medvit.dicom.header import load, read_header
from medvit.dicom.pixels import Frame, decode
from medvit.errors import MedvitError
from medvit.readers.dicom import READER

TEST_FILES = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))


def pixels(kind: str = "<i2") -> np.ndarray:
    return np.arange(15, dtype=kind).reshape(3, 5)


def taken(path: Path) -> Frame | None:
    """The frame as read directly; None if the header lacks something or the file has changed."""
    header = read_header(path)
    return header.native and read_native(path, header.native, memoryview(bytearray(header.num_bytes)))


def assert_alike(found: Frame, expected: Frame) -> None:
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert found.pixels.dtype == expected.pixels.dtype
    meanings = [(frame.slope, frame.intercept, frame.unit, frame.suv, frame.facts) for frame in (found, expected)]
    assert meanings[0] == meanings[1]


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"RescaleSlope": "2.5", "RescaleIntercept": None, "RescaleType": "US"},
        {"SOPClassUID": MRImageStorage, "Modality": "MR", "PhotometricInterpretation": "MONOCHROME1"},
        {"SOPClassUID": MRImageStorage, "Modality": "MR", "PresentationLUTShape": "INVERSE", "BitsStored": 12},
        {"BitsStored": 3, "HighBit": 2},
        {"NumberOfFrames": 1},
    ],
)
@pytest.mark.parametrize("kind", ["|u1", "<u2", "<i2"])
def test_pixels_and_their_meaning_are_those_of_the_whole_file(write_slice, kind: str, elements: dict) -> None:
    given = elements | ({"HighBit": elements["BitsStored"] - 1} if "BitsStored" in elements else {})
    if kind == "|u1" and given.get("BitsStored", 8) > 8:
        given = {}
    path = write_slice(pixels(kind), **given)
    found = taken(path)
    assert found is not None
    assert_alike(found, decode(load(path)))


def test_test_files_of_pydicom_read_the_same_with_and_without_their_header() -> None:
    num_compared = 0
    for path in TEST_FILES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = taken(path)
            except MedvitError:  # not readable as an image by either way
                continue
            if found is not None:
                assert_alike(found, decode(load(path)))
                num_compared += 1
    assert num_compared >= 3


@pytest.mark.parametrize(
    "elements",
    [
        {"RescaleSlope": "0"},
        {"HighBit": 14},
        {"BitsStored": None},
        {"NumberOfFrames": 2},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"PixelPresentation": "COLOR"},
        {"SOPClassUID": PositronEmissionTomographyImageStorage, "Modality": "PT"},
        {"ModalityLUTSequence": [Dataset()]},
        {"SharedFunctionalGroupsSequence": [Dataset()]},
        {"Rows": 4},
    ],
    ids=lambda elements: next(iter(elements)),
)
def test_what_takes_a_closer_look_is_left_to_the_decoders(write_slice, elements: dict) -> None:
    assert read_header(write_slice(pixels(), **elements)).native is None


def test_what_lies_between_the_header_and_the_pixels_does_not_stand_in_the_way(write_slice) -> None:
    path = write_slice(pixels())
    dataset = dcmread(path)
    dataset.private_block(0x3711, "MADE UP", create=True).add_new(1, "OB", b"1234")
    dataset.add_new(0x60003000, "OW", b"12")
    dataset.add_new(0x7FE00000, "UL", 42)
    dataset.save_as(path)
    found = taken(path)
    assert found is not None
    assert_alike(found, decode(load(path)))


def test_words_in_another_alphabet_do_not_stand_in_the_way(write_slice) -> None:
    words = {"PatientName": "Müller^Jörg", "PatientID": "Mü-1", "SeriesDescription": "Schädel"}
    header = read_header(write_slice(pixels(), SpecificCharacterSet="ISO_IR 100", **words))
    assert header.native is not None
    assert (header.patient, header.description) == ("Mü-1", "Schädel")


def test_what_is_compressed_is_left_to_the_decoders(write_slice) -> None:
    path = write_slice(pixels("<u2"))
    dataset = dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    assert read_header(path).native is None


def test_a_file_cut_short_within_its_pixels_is_left_to_the_decoders(write_slice) -> None:
    path = write_slice(pixels())
    path.write_bytes(path.read_bytes()[:-2])
    assert read_header(path).native is None


def test_a_header_that_has_changed_since_is_read_again(write_series) -> None:
    files, _ = write_series()
    (item,) = READER.find(files)
    before = READER.read(item)
    for path in files:
        dataset = dcmread(path)
        dataset.RescaleIntercept = -1000
        dataset.save_as(path)
    after = READER.read(item)
    assert (before.intercept, after.intercept) == (-1024.0, -1000.0)
    np.testing.assert_array_equal(before.pixels, after.pixels)


@pytest.mark.parametrize("change", [lambda content: content + b"more", lambda content: content[:-2]])
def test_a_file_of_another_length_is_not_taken(write_slice, change) -> None:
    path = write_slice(pixels())
    header = read_header(path)
    path.write_bytes(change(path.read_bytes()))
    assert read_native(path, header.native, memoryview(bytearray(header.num_bytes))) is None
