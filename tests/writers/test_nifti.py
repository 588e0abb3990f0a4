from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from medvit.geometry import Affine
from medvit.readers import find, read
from medvit.records import Item
from medvit.types import Prediction
from medvit.writers.nifti import in_source_order, write_nifti
from medvit.writers.png import write_png


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA", "IAR"])
def test_a_mask_overlays_its_nifti_source_voxel_by_voxel_in_any_orientation(tmp_path: Path, codes: str) -> None:
    voxels = np.random.default_rng(0).integers(0, 3, (5, 6, 7), dtype=np.int16)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    source = nib.Nifti1Image(voxels, np.diag([1.0, 2.0, 3.0, 1.0])).as_reoriented(turn)
    nib.save(source, tmp_path / "brain.nii.gz")
    (item,) = find([tmp_path / "brain.nii.gz"])
    assert isinstance(item, Item)
    image = read(item)
    prediction = Prediction(("b", "x", "y"), mask=image.pixels[0].astype(np.uint8), affine=image.affine)
    write_nifti(tmp_path / "mask.nii.gz", *in_source_order(prediction, item))
    written = nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(source.dataobj))
    assert np.allclose(written.affine, source.affine)


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000.0), ("micron", 0.001)])
def test_a_mask_lies_on_a_source_in_any_unit(tmp_path: Path, unit: str, mm: float) -> None:
    source = nib.Nifti1Image(
        np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([-2.0 / mm, 2.0 / mm, 2.0 / mm, 1])
    )
    source.header.set_xyzt_units(unit)
    nib.save(source, tmp_path / "brain.nii")
    (item,) = find([tmp_path / "brain.nii"])
    assert isinstance(item, Item)
    image = read(item)
    prediction = Prediction(("b", "x"), mask=(image.pixels[0] > 7).astype(np.uint8), affine=image.affine)
    mask, affine = in_source_order(prediction, item)
    assert np.array_equal(mask, np.asarray(source.dataobj) > 7)
    assert affine.spacing_mm == pytest.approx((2.0, 2.0, 2.0))


def test_a_label_map_says_its_unit_and_its_space(tmp_path: Path) -> None:
    write_nifti(tmp_path / "m.nii.gz", np.full((2, 2, 2), 300), Affine.from_spacing((1.0, 2.0, 3.0)))
    header = nib.load(tmp_path / "m.nii.gz").header
    assert header.get_xyzt_units()[0] == "mm"
    assert (int(header["sform_code"]), int(header["qform_code"]), header.get_data_dtype()) == (1, 1, np.uint16)


@pytest.mark.parametrize("top", [2, 300])
def test_a_picture_of_a_mask_holds_its_class_indices(tmp_path: Path, top: int) -> None:
    mask = np.array([[0, 1], [top, 0]])
    write_png(tmp_path / "m.png", mask)
    assert np.array_equal(np.asarray(Picture.open(tmp_path / "m.png")), mask)
