from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from medvit.errors import DataError, GeometryError, UnsupportedError
from medvit.geometry import Affine
from medvit.readers import find, read
from medvit.readers.label_maps import LabelMap, as_labels, attach, label_image, pair_masks
from medvit.records import Item
from medvit.types import Image


@pytest.mark.parametrize(
    ("image", "label_map"),
    [
        ("images/a.nii.gz", "labels/a.nii.gz"),
        ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz"),
        ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
        ("site/images/sub/a.png", "site/masks/sub/a_mask.png"),
        ("labels/x/images/a.png", "labels/x/labels/a.png"),
        ("a.nii.gz", "a_seg.nii.gz"),
        ("a.mha", "a-label.nii.gz"),
        ("benign (1).png", "benign (1)_mask.png"),
        ("training/images/21_training.tif", "training/1st_manual/21_manual1.gif"),
    ],
)
def test_pairs_are_known_by_name(image, label_map):
    pairing = pair_masks([Path(image), Path(label_map)])
    assert pairing.masks == {Path(image): Path(label_map)}
    assert not pairing.refused


@pytest.mark.parametrize(
    "names",
    [
        ["imagesTr/a.nii.gz", "labelsTs/a.nii.gz"],
        ["labels/a.png", "labels/b.png"],
        ["a/x.png", "b/x.png"],
        ["images/a.nii.gz", "images/b.nii.gz"],
    ],
)
def test_other_names_are_images_of_their_own(names):
    assert pair_masks([Path(name) for name in names]).masks == {}


def test_label_maps_without_an_image_and_second_ones_are_refused():
    pairing = pair_masks([Path(name) for name in ("a.png", "a_mask.png", "a_mask_1.png", "b_mask.png")])
    assert pairing.masks == {Path("a.png"): Path("a_mask.png")}
    assert [("second" in refusal.reason, "not there" in refusal.reason) for refusal in pairing.refused] == [
        (True, False),
        (False, True),
    ]


def test_a_label_map_is_no_item_and_lies_on_the_grid_of_its_image(tmp_path: Path):
    labels = np.arange(24).reshape(2, 3, 4) % 3
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 1  # the same voxels, stored from right to left
    nib.save(nib.Nifti1Image(labels[::-1].astype(np.float32), flipped), tmp_path / "a_seg.nii.gz")
    (item,) = find(sorted(tmp_path.iterdir()))
    assert isinstance(item, Item)
    image = read(item)
    assert image.mask.dtype == np.uint8
    assert np.array_equal(image.mask, labels)


@pytest.mark.parametrize(("shape", "shift_mm"), [((2, 3, 5), 0.0), ((2, 3, 4), 0.02)])
def test_a_label_map_on_another_grid_is_refused(shape, shift_mm):
    image = Image(np.zeros((1, 2, 3, 4), np.int16), "volume", affine=Affine.from_spacing((1.0, 1.0, 1.0)))
    shifted = Affine.from_spacing((1.0, 1.0, 1.0), (shift_mm, 0.0, 0.0))
    with pytest.raises(GeometryError, match="expected one grid"):
        attach(image, LabelMap(np.zeros(shape, np.uint8), shifted))


def test_values_that_are_not_whole_numbers_are_refused():
    assert as_labels(np.array([0.0, 300.0])).dtype == np.uint16
    assert as_labels(np.array([-1, 3])).dtype == np.int8
    with pytest.raises(DataError, match="not whole numbers"):
        as_labels(np.array([0.0, 0.5]))


def test_black_and_white_are_two_classes_and_colors_none():
    assert label_image(np.array([[[0, 255]]], np.uint8)).labels.tolist() == [[0, 1]]
    assert label_image(np.array([[[0, 7]]], np.uint16)).labels.tolist() == [[0, 7]]
    with pytest.raises(UnsupportedError, match="in colors"):
        label_image(np.array([[[0]], [[1]], [[2]]], np.uint8))


def test_a_palette_of_colors_gives_its_indices(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Pillow.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "images" / "a.png")
    labels = Pillow.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    labels.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    labels.save(tmp_path / "labels" / "a.png")
    (item,) = find(sorted(tmp_path.rglob("*.png")))
    assert read(item).mask.tolist() == [[0, 1], [2, 1]]


def test_real_vessel_labels_in_gif_pair_with_their_tiff(shared_data: Path):
    folder = shared_data / "drive" / "test"
    items = [item for item in find(sorted(p for p in folder.rglob("*") if p.is_file())) if isinstance(item, Item)]
    assert len(items) == 10
    image = read(items[0])
    assert (image.pixels.shape, image.mask.shape) == ((3, 584, 565), (584, 565))
    assert np.unique(image.mask).tolist() == [0, 1]


def test_real_instance_labels_keep_their_numbers(shared_data: Path):
    folder = shared_data / "bbbc038-nuclei"
    name = next((folder / "images").iterdir()).name
    (item,) = find([folder / "images" / name, folder / "labels" / name])
    image = read(item)
    assert image.pixels.shape[0] == 3
    assert image.mask.max() == len(np.unique(image.mask)) - 1
