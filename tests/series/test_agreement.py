"""Slices with different meanings of their values are not combined into a volume."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.sequence import Sequence as Items
from pydicom.uid import JPEGLSLossless, MRImageStorage, PositronEmissionTomographyImageStorage, RLELossless

from medvit.errors import ConflictError
from medvit.readers import find, read
from tests.dicom.multiframe import counted, frame_group, item, write_multiframe

MR = {"SOPClassUID": MRImageStorage, "Modality": "MR"}
PET = {"SOPClassUID": PositronEmissionTomographyImageStorage, "Modality": "PT", "Units": "BQML"}


def change(file: Path, **elements: Any) -> None:
    dataset = dcmread(file)
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(file)


def read_changed(files: list[Path], **elements: Any):
    """The volume of a series of which the third slice alone has other elements."""
    change(files[2], **elements)
    (found,) = find(files)
    return read(found)


@pytest.mark.parametrize("kind", [{}, MR, PET], ids=["CT", "MR", "PT"])
@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless], ids=["native", "RLE", "JPEG-LS"])
def test_a_slice_that_alone_lacks_the_rescale_is_refused(
    write_series, kind: dict[str, Any], syntax: str | None
) -> None:
    files, _ = write_series(RescaleSlope=3.25, **kind)
    for file in files if syntax else ():
        dataset = dcmread(file)
        dataset.compress(syntax)
        dataset.save_as(file)
    with pytest.raises(ConflictError, match=r"4 slices with a rescale to (HU|US), 1 slices with no rescale"):
        read_changed(files, RescaleSlope=None, RescaleIntercept=None)


@pytest.mark.parametrize("lost", ["RescaleSlope", "RescaleIntercept"])
def test_half_of_a_rescale_differs_from_a_whole_one(write_series, lost: str) -> None:
    with pytest.raises(ConflictError, match=r"RescaleSlope"):
        read_changed(write_series()[0], **{lost: None})


def test_a_modality_table_beside_rescales_is_refused(write_series) -> None:
    table = item(LUTDescriptor=[100, 0, 16], ModalityLUTType="HU", LUTData=np.arange(100, dtype="<u2").tobytes())
    files, _ = write_series(dtype=np.uint16)
    with pytest.raises(ConflictError, match=r"1 slices with a table to HU"):
        read_changed(files, ModalityLUTSequence=Items([table]))


@pytest.mark.parametrize(
    ("kind", "elements", "words"),
    [
        ({}, {"RescaleType": "US"}, "a rescale to US"),
        ({}, {"RescaleType": "Smith John"}, "a rescale to another unit"),
        (PET, {"Units": "CNTS"}, "the unit CNTS"),
        (PET, {"Units": "SMITH"}, "the unit unknown"),
        (MR, {"PhotometricInterpretation": "MONOCHROME1"}, "high values dark"),
        (MR, {"PresentationLUTShape": "INVERSE"}, "high values dark"),
        ({}, {"PhotometricInterpretation": "MONOCHROME1"}, "high values dark"),
        (MR, {"BitsStored": 12, "HighBit": 11}, "12 bits"),
    ],
)
def test_slices_that_differ_in_what_values_mean_are_refused(
    write_series, kind: dict[str, Any], elements: dict[str, Any], words: str
) -> None:
    files, _ = write_series(**kind)
    with pytest.raises(ConflictError, match=words) as refused:
        read_changed(files, **elements)
    assert "Smith" not in str(refused.value)
    assert "SMITH" not in str(refused.value)


def test_a_default_is_not_a_difference(write_series) -> None:
    files, voxels = write_series()
    image = read_changed(files, RescaleType="HU")
    assert image.unit == "HU"
    assert np.array_equal(image.pixels[0, ::-1, ::-1].T, voxels)


def test_other_bits_are_reported_where_no_value_hangs_on_them(write_series, caplog: pytest.LogCaptureFixture) -> None:
    files, voxels = write_series(dtype=np.uint16, **MR)
    with caplog.at_level(logging.WARNING, "medvit"):
        image = read_changed(files, BitsStored=12, HighBit=11)
    assert np.array_equal(image.pixels[0, ::-1, ::-1].T, voxels)
    assert "4 slices with 16 bits, 1 slices with 12 bits" in caplog.text


def test_slopes_that_differ_are_applied_slice_by_slice(write_series) -> None:
    files, voxels = write_series(**PET)
    image = read_changed(files, RescaleSlope=2.5)
    slopes = np.array([1, 1, 2.5, 1, 1])[:, None, None]
    assert np.array_equal(image.intensities()[0, ::-1, ::-1].T, voxels * slopes - 1024)


def test_frames_of_which_one_lacks_the_rescale_are_refused(tmp_path: Path) -> None:
    rescale = {"PixelValueTransformationSequence": {"RescaleSlope": 3.25, "RescaleIntercept": 0, "RescaleType": "US"}}
    groups = [frame_group([0.0, 0.0, float(k)], **({} if k == 2 else rescale)) for k in range(5)]
    (found,) = find([write_multiframe(tmp_path / "a.dcm", counted(5), groups)])
    with pytest.raises(ConflictError, match=r"4 slices with a rescale to US, 1 slices with no rescale"):
        read(found)


def test_resampled_volumes_are_held_to_the_same(write_series) -> None:
    files, _ = write_series(places_mm=(0, 1, 2.5, 3, 4))
    change(files[2], RescaleSlope=None, RescaleIntercept=None)
    (found,) = find(files, geometry="resample")
    with pytest.raises(ConflictError, match="no rescale"):
        read(found)
