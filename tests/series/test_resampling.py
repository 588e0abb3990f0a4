"""Series that do not form a regular grid, under each policy."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.dicom.header import read_header
from medvit.geometry import Affine
from medvit.readers import find, read
from medvit.records import Item, Refusal
from medvit.series.resampling import layout

ROWS, COLUMNS, SPACING = 12, 8, (0.5, 0.75)


def plane_wave(world: np.ndarray) -> np.ndarray:
    """A field that is linear in space, which linear interpolation gives back exactly."""
    return 1000.0 + world @ np.array([7.0, -5.0, 11.0])


def write_field(write_slice, positions: np.ndarray, orientation: list[float]) -> list:
    """Slices of the field at their positions, LPS mm."""
    row, column = np.reshape(orientation, (2, 3))
    files = []
    for n, position in enumerate(positions):
        columns, rows = np.meshgrid(np.arange(COLUMNS), np.arange(ROWS))
        world = position + columns[..., None] * SPACING[1] * row + rows[..., None] * SPACING[0] * column
        stored = np.rint(10 * plane_wave(world)).astype(np.int32).astype(np.uint16)
        files.append(
            write_slice(
                stored,
                position=tuple(float(part) for part in position),
                ImageOrientationPatient=[float(part) for part in orientation],
                PixelSpacing=list(SPACING),
                InstanceNumber=n + 1,
                RescaleIntercept=0,
                RescaleSlope=0.1,
            )
        )
    return files


def field_error(image) -> float:
    """The largest deviation from the field within the volume, where slices reach."""
    index = np.stack(np.meshgrid(*map(np.arange, image.pixels.shape[1:]), indexing="ij"), axis=-1)
    expected = plane_wave(image.affine(index) * [-1, -1, 1])
    values = image.intensities()[0]
    inside = values > values.min() + 1.0
    assert inside.mean() > 0.5
    return float(np.abs(values - expected)[inside].max())


def only(files, **options) -> Item | Refusal:
    (found,) = find(files, **options)
    return found


def straight(*heights_mm: float) -> np.ndarray:
    return np.array([[0.0, 0.0, height] for height in heights_mm])


def test_a_missing_slice_is_interpolated_and_the_others_stay_as_they_are(write_slice):
    files = write_field(write_slice, straight(0, 1, 2, 4, 5), [1, 0, 0, 0, 1, 0])
    assert only(files).code == "geometry"
    found = only(files, geometry="resample")
    assert (found.part, found.is_resampled) == ("resampled to a regular grid", True)
    image = read(found)
    assert image.pixels.shape == (1, COLUMNS, ROWS, 6)
    assert image.pixels.dtype == np.uint16
    assert image.affine.spacing_mm == pytest.approx((0.75, 0.5, 1.0))
    assert field_error(image) < 0.11  # the step of the stored values
    regular = read(only(files[:3]))
    assert np.array_equal(image.pixels[..., :3], regular.pixels)


def test_uneven_slices_lie_evenly_afterwards(write_slice):
    files = write_field(write_slice, straight(0, 1, 2.4, 3.1, 4.5, 5.4), [1, 0, 0, 0, 1, 0])
    image = read(only(files, geometry="resample"))
    assert image.affine.spacing_mm[2] == pytest.approx(5.4 / 5)
    assert field_error(image) < 0.11


@pytest.mark.parametrize("degrees", [10, -18.5])
def test_a_tilted_gantry_is_sheared_back(write_slice, degrees):
    tilt = np.deg2rad(degrees)
    orientation = [1.0, 0.0, 0.0, 0.0, float(np.cos(tilt)), float(-np.sin(tilt))]
    files = write_field(write_slice, straight(0, 2, 4, 6), orientation)
    assert "gantry tilt" in only(files).reason
    image = read(only(files, geometry="resample"))
    assert image.affine.spacing_mm[2] == pytest.approx(2 * np.cos(tilt))
    axes = image.affine.matrix[:3, :3] / image.affine.spacing_mm
    assert np.abs(axes.T @ axes - np.eye(3)).max() < 1e-9
    assert field_error(image) < 0.11


def test_the_tilt_tag_and_slice_thickness_change_nothing(write_series):
    files, _ = write_series(GantryDetectorTilt=18.5, SliceThickness=9.0)
    assert only(files).kind == "volume"


def test_kept_slices_are_images_that_say_where_they_come_from(write_slice):
    files = write_field(write_slice, straight(0, 1, 3), [1, 0, 0, 0, 1, 0])
    found = list(find(files, geometry="slices"))
    assert [(one.kind, one.part) for one in found] == [("image", f"slice {n} of 3") for n in (1, 2, 3)]
    assert len({one.files for one in found}) == 3


@pytest.mark.parametrize("geometry", ["refuse", "resample", "slices"])
def test_a_regular_series_is_a_volume_under_every_policy(write_series, geometry):
    files, _ = write_series()
    found = only(files, geometry=geometry)
    assert (found.kind, found.is_resampled, found.part) == ("volume", False, "")


def test_nothing_is_invented_across_a_wide_gap(write_slice):
    files = write_field(write_slice, straight(0, 1, 2, 3, 20), [1, 0, 0, 0, 1, 0])
    assert "slices are up to 17.00 mm apart, usually 1.00 mm" in only(files, geometry="resample").reason


def test_mixed_orientations_cannot_be_resampled(write_slice):
    files = write_field(write_slice, straight(0, 1, 2), [1, 0, 0, 0, 1, 0])
    files += write_field(write_slice, straight(3), [1, 0, 0, 0, float(np.cos(0.1)), float(np.sin(0.1))])
    assert only(files, geometry="resample").code == "geometry"
    assert len(list(find(files, geometry="slices"))) == 4


def test_the_layout_of_regular_slices_is_their_own_grid(write_series):
    files, _ = write_series()
    grid = layout([read_header(file) for file in files])
    assert grid.shape == (6, 4, 5)
    assert np.array_equal(grid.shifts, np.zeros((5, 2)))
    assert isinstance(grid.affine, Affine)
