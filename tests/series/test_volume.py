from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.dicom.header import read_header
from medvit.errors import GeometryError
from medvit.readers import find
from medvit.records import Item, Refusal
from medvit.series.volume import arrange, group, slice_spacing_mm


def test_a_missing_slice_is_refused(write_series):
    files, _ = write_series(places_mm=(0, 1, 2, 4, 5))
    with pytest.raises(
        GeometryError, match=r"slice gaps range from 1\.00 to 2\.00 mm; expected equal gaps \(tolerance 0\.1 mm\)"
    ):
        arrange([read_header(file) for file in files])


def test_positions_written_to_a_tenth_of_a_millimeter_are_one_gap(write_series):
    files, _ = write_series(places_mm=(0.0, 0.6, 1.2, 1.9, 2.5))  # 0.625 mm, rounded
    assert arrange([read_header(file) for file in files]).affine.spacing_mm[2] == pytest.approx(0.625)


def test_a_missing_slice_is_noticed_where_slices_are_thinner_than_the_tolerance():
    positions = np.array([[0, 0, 0], [0, 0, 0.05], [0, 0, 0.15]])
    with pytest.raises(GeometryError, match="slice gaps"):
        slice_spacing_mm(positions, np.array([0.0, 0.0, 1.0]))


def test_thick_slices_rounded_by_the_scanner_are_one_gap_and_a_growing_gap_is_none():
    normal = np.array([0.0, 0.0, 1.0])
    jitter = np.array([0.0, 0.028, -0.028, 0.02, 0.0, -0.025, 0.028, 0.0])
    rounded = np.outer(7.0 * np.arange(8) + jitter, normal)
    assert slice_spacing_mm(rounded, normal) == pytest.approx(7.0, abs=0.02)
    growing = np.outer(np.cumsum(np.linspace(7.0, 7.13, 101)), normal)
    with pytest.raises(GeometryError, match="geometry=resample"):
        slice_spacing_mm(growing, normal)
    missing = np.outer([0.0, 7.0, 14.0, 28.0], normal)
    with pytest.raises(GeometryError, match=r"tolerance 0\.14 mm"):
        slice_spacing_mm(missing, normal)


def test_directions_that_are_no_right_angle_are_refused(write_series):
    files, _ = write_series(ImageOrientationPatient=[1, 0, 0, 0.2, 0.9798, 0])
    with pytest.raises(GeometryError, match="not two unit vectors at a right angle"):
        arrange([read_header(file) for file in files])


def test_a_place_that_is_no_number_is_none(write_series):
    files, _ = write_series()
    headers = [read_header(file) for file in files]
    headers[2] = replace(headers[2], position_mm=(0.0, float("nan"), 0.0))
    with pytest.raises(GeometryError, match=r"no \(0020,0032\) ImagePositionPatient in 1 of 5 slices"):
        arrange(headers)


def test_slices_thinner_than_the_tolerance_of_a_place_are_apart_where_pixels_are_as_fine(write_series):
    places = tuple(0.006 * n for n in range(5))
    files, _ = write_series(places_mm=places, PixelSpacing=[0.004, 0.004])
    assert arrange([read_header(file) for file in files]).affine.spacing_mm[2] == pytest.approx(0.006, rel=1e-3)
    coarse, _ = write_series(places_mm=places)
    with pytest.raises(GeometryError, match="1 position has 5 instances"):
        arrange([read_header(file) for file in coarse])


def test_slices_lie_in_order_along_their_normal(write_series):
    files, _ = write_series(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    stack = arrange([read_header(file) for file in sorted(files)])
    assert [header.file for header in stack.headers] == files


def test_row_spacing_lies_along_columns(write_series):
    files, _ = write_series()  # PixelSpacing 0.5 (between rows), 0.75 (between columns)
    assert arrange([read_header(file) for file in files]).affine.spacing_mm == pytest.approx((0.75, 0.5, 1.0))


def test_slice_thickness_and_location_are_not_looked_at(write_series):
    files, _ = write_series(places_mm=(0, 2, 4), SliceThickness=5.0, SliceLocation=0.0)
    assert arrange([read_header(file) for file in files]).affine.spacing_mm[2] == pytest.approx(2.0)


def test_gantry_tilt_is_refused(write_slice):
    pixels, tilt = np.zeros((4, 4), np.int16), np.deg2rad(10)
    direction = [1, 0, 0, 0, float(np.cos(tilt)), float(-np.sin(tilt))]
    files = [write_slice(pixels, position=(0, 0, 2.5 * n), ImageOrientationPatient=direction) for n in range(5)]
    with pytest.raises(GeometryError, match=r"slices drift 1\.74 mm sideways .*gantry tilt"):
        arrange([read_header(file) for file in files])


def test_time_points_at_one_position_are_refused_with_their_numbers(write_slice):
    pixels = np.zeros((4, 4), np.int16)
    files = [write_slice(pixels, position=(0, 0, n % 5)) for n in range(15)]
    with pytest.raises(GeometryError, match="5 positions have 3 instances each"):
        arrange([read_header(file) for file in files])


@pytest.mark.parametrize(
    ("keyword", "reason"),
    [
        ("PixelSpacing", r"no \(0028,0030\) PixelSpacing in 1 of 3 slices"),
        ("ImageOrientationPatient", r"no \(0020,0037\) ImageOrientationPatient in 1 of 3 slices"),
    ],
)
def test_a_missing_element_is_named(write_slice, keyword, reason):
    pixels = np.zeros((4, 4), np.int16)
    files = [write_slice(pixels, position=(0, 0, n), **({keyword: None} if n == 1 else {})) for n in range(3)]
    with pytest.raises(GeometryError, match=reason):
        arrange([read_header(file) for file in files])


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "slices of 2 orientations"),
        ({"PixelSpacing": [0.5, 0.7]}, "pixel spacings 0.5000 to 0.7500 mm"),
    ],
)
def test_slices_that_differ_are_refused(write_slice, element, reason):
    pixels = np.zeros((4, 4), np.int16)
    files = [write_slice(pixels, position=(0, 0, n), **(element if n == 2 else {})) for n in range(3)]
    with pytest.raises(GeometryError, match=reason):
        arrange([read_header(file) for file in files])


def test_series_without_identifiers_are_kept_apart_by_folder_and_named_by_content(write_series, tmp_path: Path):
    files, _ = write_series(SeriesInstanceUID=None, StudyInstanceUID=None)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for file in files:
            shutil.copy(file, tmp_path / folder)
    here, there = (group(map(read_header, sorted((tmp_path / folder).iterdir()))) for folder in ("a", "b"))
    assert len(here) == len(there) == 1
    assert here[0][0].series.startswith("derived-")
    assert here[0][0].series == there[0][0].series


def test_a_copy_of_an_instance_is_told_of_and_the_volume_stands(write_series, tmp_path: Path):
    files, _ = write_series()
    shutil.copy(files[2], tmp_path / "copy.dcm")
    found = list(find(sorted(tmp_path.iterdir())))
    assert [type(one) for one in found] == [Refusal, Item]
    assert found[0].code == "duplicate"
