from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import MRImageStorage

from medvit.errors import UnsupportedError
from medvit.readers import find, read
from medvit.records import Item, Refusal
from medvit.writers.dicom_parts.source_instances import read_sources

NUM_SLICES, ROWS, COLUMNS, GAP = 5, 4, 6, 12.0
VOXELS = np.arange(NUM_SLICES * ROWS * COLUMNS, dtype=np.int16).reshape(NUM_SLICES, ROWS, COLUMNS)


def csa(**tags: list[str]) -> bytes:
    """A CSA2 header, as far as a reader needs it: a count of tags, then each with its items (nibabel.nicom)."""
    packed = b"SV10\4\3\2\1" + struct.pack("<2I", len(tags), 77)
    for name, items in tags.items():
        packed += struct.pack("<64si4s3i", name.encode(), len(items), b"FD\0\0", 3, len(items), 77)
        for item in items:
            text = item.encode() + b"\0"
            packed += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + b"\0" * (-len(text) % 4)
    return packed


@pytest.fixture
def write_mosaic(write_slice):
    """Write a mosaic of 3 x 3 tiles of which 5 contain slices; the first slice is at (10, 20, 30) mm, LPS."""

    def write(*, normal: tuple[str, ...] = ("0", "0", "1"), number: int = 1, shift: int = 0, **elements) -> Path:
        mosaic = np.zeros((3 * ROWS, 3 * COLUMNS), np.int16)
        for k in range(NUM_SLICES):
            top, left = k // 3 * ROWS, k % 3 * COLUMNS
            mosaic[top : top + ROWS, left : left + COLUMNS] = VOXELS[k] + shift
        corner = (10.0 - 0.75 * COLUMNS, 20.0 - 0.5 * ROWS, 30.0)  # (mosaic - tile) / 2 is one tile here
        tags = {
            "SOPClassUID": MRImageStorage,
            "Modality": "MR",
            "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
            "SpacingBetweenSlices": GAP,
            "AcquisitionNumber": number,
            "InstanceNumber": number,
            "SliceThickness": 3.0,
            "RescaleSlope": None,
            "RescaleIntercept": None,
        } | elements
        file = write_slice(mosaic, position=corner, **tags)
        dataset = pydicom.dcmread(file)
        block = dataset.private_block(0x29, "SIEMENS CSA HEADER", create=True)
        tags = {"NumberOfImagesInMosaic": [str(NUM_SLICES)], "SliceNormalVector": list(normal)}
        block.add_new(0x10, "OB", csa(**{name: items for name, items in tags.items() if items}))
        dataset.save_as(file)
        return file

    return write


def only(files) -> Item | Refusal:
    (found,) = find(files)
    return found


@pytest.mark.parametrize(("normal", "sign"), [(("0", "0", "1"), 1), (("0", "0", "-1"), -1)])
def test_tiles_become_slices_on_the_side_that_the_normal_says(write_mosaic, normal, sign):
    image = read(only([write_mosaic(normal=normal)]))
    assert image.pixels.shape == (1, COLUMNS, ROWS, NUM_SLICES)
    assert image.affine.spacing_mm == pytest.approx((0.75, 0.5, GAP))
    for k, j, i in [(0, 0, 0), (4, 3, 5), (2, 1, 4)]:
        lps = np.array([10.0 + 0.75 * i, 20.0 + 0.5 * j, 30.0 + sign * GAP * k])
        index = np.round(image.affine.inverse()(lps * [-1, -1, 1])).astype(int)
        assert image.affine(index) == pytest.approx(lps * [-1, -1, 1], abs=1e-6)  # mm
        assert image.pixels[(0, *index)] == VOXELS[k, j, i]


def test_mosaics_of_one_series_are_its_times(write_mosaic):
    found = list(find([write_mosaic(number=n, shift=1000 * n) for n in (1, 2, 3)]))
    assert [one.part for one in found] == [f"acquisition {n} of 3" for n in (1, 2, 3)]
    assert [int(read(one).pixels.min()) for one in found] == [1000, 2000, 3000]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"normal": ()}, "without SliceNormalVector in its CSA header"),
        ({"SpacingBetweenSlices": None}, r"without (0018,0088) SpacingBetweenSlices"),
        ({"normal": ("1", "0", "0")}, "not perpendicular"),
    ],
)
def test_a_mosaic_that_does_not_say_where_its_slices_lie_is_refused(write_mosaic, options, reason):
    refused = only([write_mosaic(**options)])
    assert (refused.code, reason in refused.reason) == ("geometry", True)


def test_a_mosaic_stripped_of_private_elements_is_refused_and_no_picture(write_mosaic):
    file = write_mosaic()
    dataset = pydicom.dcmread(file)
    dataset.remove_private_tags()
    dataset.save_as(file)
    for geometry in ("refuse", "resample", "slices"):
        (refused,) = find([file], geometry=geometry)
        assert "without its private CSA header" in refused.reason


def test_no_segmentation_refers_to_a_mosaic(write_mosaic):
    with pytest.raises(UnsupportedError, match="not frames with functional groups"):
        read_sources(only([write_mosaic()]))
