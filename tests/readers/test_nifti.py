from __future__ import annotations

import gzip
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.dataset import export
from medvit.geometry import Affine, to_ras
from medvit.readers import find, read
from medvit.readers.options import GeometryConfig
from medvit.records import Item
from medvit.writers import nifti as mask_writer

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
    assert "does not exist" in only(tmp_path / "a.hdr").reason
    (tmp_path / "a.img").symlink_to(tmp_path / "elsewhere" / "a.img")
    assert isinstance(only(tmp_path / "a.hdr", tmp_path / "a.img"), Item)
    (tmp_path / "a.img").unlink()
    (tmp_path.parent / "outside.img").write_bytes(bytes(8))
    (tmp_path / "a.img").symlink_to(tmp_path.parent / "outside.img")
    assert "outside its own folder" in only(tmp_path / "a.hdr", tmp_path / "a.img").reason


MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])
MOVED = np.array([[1.0, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
SHEARED = np.array([[1.0, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def two_forms(path: Path, sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int]) -> Path:
    image = nib.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), None)
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    nib.save(image, path)
    return path


@pytest.mark.parametrize(("qform", "codes"), [(MIRROR, (1, 1)), (MIRROR, (2, 1)), (MOVED, (1, 1))])
def test_forms_that_contradict_each_other_are_refused_until_one_is_chosen(tmp_path: Path, qform, codes):
    path = two_forms(tmp_path / "a.nii", np.eye(4), qform, codes)
    assert only(path).code == "geometry"
    assert "geometry.nifti=" in only(path).reason
    for form, affine in (("sform", np.eye(4)), ("qform", qform)):
        (item,) = find([path], geometry=GeometryConfig(nifti=form))
        assert read(item).affine.is_close(to_ras(np.zeros((10, 10, 10)), Affine(affine))[1])


def test_forms_of_two_spaces_take_the_sform_and_are_reported_once(tmp_path: Path, caplog):
    paths = [two_forms(tmp_path / f"{name}.nii", MOVED, np.eye(4), (4, 1)) for name in "ab"]
    items = list(find(paths))
    assert [read(item).affine.origin_mm[0] for item in items] == [5.0, 5.0]
    assert [record.getMessage().split(" NIfTI")[0] for record in caplog.records] == ["2"]


def test_a_zero_sform_leaves_the_place_to_the_qform(tmp_path: Path):
    path = two_forms(tmp_path / "a.nii", np.eye(4), MOVED, (1, 1))
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)
    path.write_bytes(content)
    assert read(only(path)).affine.origin_mm[0] == 5.0


def test_a_sheared_grid_is_refused_or_resampled_with_its_label_map(tmp_path: Path):
    voxels = np.zeros((12, 10, 8), np.int16)
    voxels[4, 5, 6] = 1000
    write(tmp_path / "a.nii.gz", voxels, SHEARED)
    write(tmp_path / "a_seg.nii.gz", (voxels > 0).astype(np.uint8), SHEARED)
    files = sorted(tmp_path.iterdir())
    (refused,) = find(files)
    assert refused.code == "geometry"
    assert "not at right angles" in refused.reason
    (item,) = find(files, geometry="resample")
    image = read(item)
    cosines = image.affine.matrix[:3, :3].T @ image.affine.matrix[:3, :3]
    assert np.allclose(cosines, np.diag(np.diag(cosines)))
    world = np.array([4 + 0.3 * 6, 5.0, 6.0])
    i, j, k = image.affine.inverse()(world)
    assert image.pixels[0, int(np.floor(i)) : int(np.floor(i)) + 2, round(j), round(k)].sum() == 1000
    assert image.mask[round(i), round(j), round(k)] == 1
    assert image.mask.sum() == 1


@pytest.mark.parametrize("write_mask", [False, True])
def test_a_qform_is_written_only_where_it_can_hold_the_grid(tmp_path: Path, write_mask: bool):
    for name, matrix, code in (("straight", MOVED, 1), ("sheared", SHEARED, 0)):
        path, voxels = tmp_path / f"{name}.nii", np.zeros((12, 10, 8), np.int16)
        if write_mask:
            mask_writer.write_nifti(path, voxels, Affine(matrix))
        else:
            export.write_nifti(path, voxels, Affine(matrix))
        header = nib.load(path).header
        assert int(header["qform_code"]) == code
        assert int(header["sform_code"]) == 1
        assert np.allclose(nib.load(path).affine, matrix)


@pytest.mark.parametrize("name", ["a.nii", "a.hdr"])
def test_more_voxels_than_the_header_promises_are_refused(tmp_path: Path, name: str):
    kind = nib.Nifti1Pair if name == "a.hdr" else nib.Nifti1Image
    nib.save(kind(np.zeros((2, 2, 2), np.int16), np.eye(4)), tmp_path / name)
    voxels = tmp_path / name.replace("hdr", "img")
    voxels.write_bytes(voxels.read_bytes() + bytes(6))
    assert "declares 16 bytes of voxels, the file contains 22" in only(*sorted(tmp_path.iterdir(), reverse=True)).reason
