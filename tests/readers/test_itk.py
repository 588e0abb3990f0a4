from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medvit.readers import find, read
from medvit.records import Item


def volume() -> sitk.Image:
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(4, 3, 2))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    return image


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
def test_every_voxel_lies_where_itk_puts_it(tmp_path: Path, name: str):
    source = volume()
    sitk.WriteImage(source, str(tmp_path / name))
    (item,) = find(sorted(tmp_path.iterdir()))
    image = read(item)
    assert len(item.files) == (2 if name in ("a.mhd", "a.nhdr") else 1)
    assert image.affine.orientation == "RAS"
    assert image.pixels.dtype == np.int16
    for index in np.ndindex(2, 3, 4):
        ras = np.array(source.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]  # ITK says LPS
        voxel = np.round(image.affine.inverse()(ras)).astype(int)
        assert image.pixels[(0, *voxel)] == source[index]


def test_voxels_without_a_header_are_refused(tmp_path: Path):
    (tmp_path / "a.raw").write_bytes(b"\1" * 24)
    (found,) = find([tmp_path / "a.raw"])
    assert found.code == "not_an_image"


def test_a_nrrd_that_does_not_tell_left_from_right_is_refused(tmp_path: Path):
    sitk.WriteImage(volume(), str(tmp_path / "a.nrrd"))
    header, _, voxels = (tmp_path / "a.nrrd").read_bytes().partition(b"\n\n")
    lines = [line for line in header.split(b"\n") if not line.startswith(b"space")]
    (tmp_path / "a.nrrd").write_bytes(b"\n".join([*lines, b"spacings: 1 2 3"]) + b"\n\n" + voxels)
    (found,) = find([tmp_path / "a.nrrd"])
    assert found.code == "geometry"


def test_an_image_in_two_dimensions_has_its_pixel_size(tmp_path: Path):
    source = sitk.GetImageFromArray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    source.SetSpacing((0.25, 0.25))
    sitk.WriteImage(source, str(tmp_path / "a.mha"))
    (item,) = find([tmp_path / "a.mha"])
    image = read(item)
    assert (item.kind, image.pixels.shape, image.mpp) == ("image", (1, 2, 3), 250.0)


def test_a_label_map_may_be_of_another_format(tmp_path: Path):
    import nibabel as nib

    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 3, 2), np.int16)), str(tmp_path / "a.mha"))
    labels = np.arange(24).reshape(2, 3, 4).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, np.diag([-1.0, -1, 1, 1])), tmp_path / "a_seg.nii.gz")
    (item,) = find(sorted(tmp_path.iterdir()))
    assert isinstance(item, Item)
    assert np.array_equal(read(item).mask, labels[::-1, ::-1])
