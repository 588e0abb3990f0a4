from __future__ import annotations

import gzip
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.readers import find, read
from medvit.records import Item

ALL_48_ORIENTATIONS = ["".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)]


def write(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None, **fields) -> Path:
    image = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    for field, value in fields.items():
        image.header[field] = value
    nib.save(image, path)
    return path


def patched(path: Path, offset: int, values: list[int]) -> Path:
    """Overwrites 16-bit fields of the header: dim from 42, qform_code and sform_code from 252."""
    content = bytearray(path.read_bytes())
    content[offset : offset + 2 * len(values)] = np.array(values, "<i2").tobytes()
    path.write_bytes(content)
    return path


def only(*files: Path):
    (found,) = find(files)
    return found


@pytest.mark.parametrize("codes", ALL_48_ORIENTATIONS)
def test_reading_keeps_every_voxel_in_place(tmp_path: Path, codes: str):
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    signed = nib.orientations.axcodes2ornt(codes)
    affine = nib.orientations.inv_ornt_aff(signed, (2, 3, 4))
    affine[:3] *= 1.5
    image = read(only(write(tmp_path / "a.nii", voxels, affine)))
    assert image.affine.orientation == "RAS"
    world = image.affine(np.argwhere(image.pixels[0] >= 0))  # in the order of raveled voxels
    back = np.round(np.linalg.inv(affine) @ np.c_[world, np.ones(24)].T)[:3].astype(int)
    assert np.array_equal(voxels[tuple(back)], image.pixels[0].ravel())


def test_integers_stay_and_scl_slope_and_inter_are_carried(tmp_path: Path):
    image = nib.Nifti1Image(np.full((2, 2, 2), 7, np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "a.nii.gz")
    stored = read(only(tmp_path / "a.nii.gz"))
    expected = nib.load(tmp_path / "a.nii.gz").get_fdata()
    assert stored.pixels.dtype == np.int16
    assert stored.slope == 0.5
    assert np.allclose(stored.intensities()[0], expected)


def test_units_other_than_millimeters_are_honored(tmp_path: Path):
    image = read(
        only(write(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8), np.diag([500, 500, 500, 1]), xyzt_units=3))
    )
    assert image.affine.spacing_mm == pytest.approx((0.5, 0.5, 0.5))  # microns in the file


def test_big_endian_files_come_in_native_order(tmp_path: Path):
    voxels = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    big = nib.Nifti1Image(voxels, np.eye(4), nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "a.nii")
    pixels = read(only(tmp_path / "a.nii")).pixels
    assert pixels.dtype.isnative
    assert np.array_equal(pixels[0], voxels)


def test_a_file_without_orientation_is_refused(tmp_path: Path):
    found = only(patched(write(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8)), 252, [0, 0]))
    assert found.code == "geometry"
    assert "sform_code and qform_code are both 0" in found.reason


def test_many_volumes_in_one_file_are_refused_and_one_is_taken(tmp_path: Path):
    assert "shape (2, 2, 2, 5)" in only(write(tmp_path / "a.nii", np.zeros((2, 2, 2, 5), np.uint8))).reason
    assert read(only(write(tmp_path / "b.nii", np.zeros((2, 2, 3, 1), np.uint8)))).pixels.shape == (1, 2, 2, 3)


def test_a_header_that_claims_more_than_its_file_allocates_nothing(tmp_path: Path):
    path = patched(write(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8)), 42, [30000, 30000, 30000])
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [found.code for found in find([path, packed])] == ["unreadable", "unreadable"]


def test_a_truncated_file_is_unreadable(tmp_path: Path):
    path = write(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 99, (8, 8, 8)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="the volume cannot be decoded"):
        read(only(path))


def test_real_pairs_are_found_and_read_on_one_grid(shared_data: Path):
    folder = shared_data / "msd-hippocampus"
    files = [*sorted((folder / "images").iterdir())[:5], *sorted((folder / "labels").iterdir())[:5]]
    items = list(find(files))
    assert len(items) == 5
    for item in items:
        image = read(item)
        assert image.mask.shape == image.pixels.shape[1:]
        assert np.unique(image.mask).tolist() == [0, 1, 2]


def test_a_header_without_its_voxels_and_one_linked_elsewhere_are_refused(tmp_path: Path):
    nib.save(nib.Nifti1Pair(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "a.hdr")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.img").rename(tmp_path / "elsewhere" / "a.img")
    assert "not there" in only(tmp_path / "a.hdr").reason
    (tmp_path / "a.img").symlink_to(tmp_path / "elsewhere" / "a.img")
    assert isinstance(only(tmp_path / "a.hdr", tmp_path / "a.img"), Item)
    (tmp_path / "a.img").unlink()
    (tmp_path.parent / "outside.img").write_bytes(bytes(8))
    (tmp_path / "a.img").symlink_to(tmp_path.parent / "outside.img")
    assert "outside its own folder" in only(tmp_path / "a.hdr", tmp_path / "a.img").reason
