from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from medvit.errors import DataError, GeometryError, UnsupportedError
from medvit.geometry import Affine
from medvit.readers import find, read
from medvit.readers.image import READER as PICTURES
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
    assert [("second" in refusal.reason, "has no image" in refusal.reason) for refusal in pairing.refused] == [
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


def test_gray_levels_are_labels_as_they_are_and_colors_none():
    assert label_image(np.array([[[0, 255]]], np.uint8)).labels.tolist() == [[0, 255]]
    assert label_image(np.array([[[0, 7]]], np.uint16)).labels.tolist() == [[0, 7]]
    with pytest.raises(UnsupportedError, match="in color"):
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
    assert np.unique(image.mask).tolist() == [0, 255]


def test_real_instance_labels_keep_their_numbers(shared_data: Path):
    folder = shared_data / "bbbc038-nuclei"
    name = next((folder / "images").iterdir()).name
    (item,) = find([folder / "images" / name, folder / "labels" / name])
    image = read(item)
    assert image.pixels.shape[0] == 3
    assert image.mask.max() == len(np.unique(image.mask)) - 1


@pytest.mark.parametrize("folder", ["gt", "ground_truth", "GroundTruth", "annotations", "mask"])
def test_other_names_of_folders_of_label_maps_are_known(folder):
    pairing = pair_masks([Path("images/a.png"), Path(folder, "a.png")])
    assert pairing.masks == {Path("images/a.png"): Path(folder, "a.png")}


def test_a_folder_called_mask_beside_other_label_maps_is_set_aside():
    files = [Path(folder, "a.png") for folder in ("images", "1st_manual", "mask")]
    pairing = pair_masks(files)
    assert pairing.masks == {files[0]: files[1]}
    assert [(one.files, one.code) for one in pairing.refused] == [((files[2],), "label_map")]


@pytest.mark.parametrize("place", ["images/a.png", "photos/a.png", "p/photos/day/a_0000.png"])
def test_a_named_folder_holds_the_label_maps_of_those_beside_it(place):
    image = Path(place)
    label_map = image.parent.parent / "truth" / "a_seg.png"
    nested = Path("p/truth/day/a.png")
    known = nested if place.startswith("p/") else label_map
    other = image.parent / "a_mask.png"
    pairing = pair_masks(sorted([image, known, other]), ["Truth"])
    assert pairing.masks == {image: known}
    assert [one.files for one in pairing.refused] == [(other,)]


def test_a_named_folder_that_is_not_there_is_refused():
    with pytest.raises(DataError, match="no file of the source is in a folder 'truth'"):
        pair_masks([Path("images/a.png")], ["truth"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_a_rounding_error_from_whole_numbers_are_rounded(dtype):
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    written = labels.astype(dtype) * dtype(0.1) / dtype(0.1) * (1 - 1e-7)
    assert np.array_equal(as_labels(written), labels)
    with pytest.raises(DataError, match="not whole numbers"):
        as_labels(labels + dtype(0.01))


@pytest.mark.parametrize("used", [[0, 7], [0, 3, 7], [0, 1]])
def test_an_index_of_a_palette_with_colors_is_the_label_whichever_are_used(tmp_path: Path, used: list[int]):
    palette = [((n >> 0 & 1) << 7, (n >> 1 & 1) << 7, (n >> 2 & 1) << 7) for n in range(8)]  # as Pascal VOC has it
    labels = Pillow.fromarray(np.array([used], np.uint8), "P")
    labels.putpalette([level for color in palette for level in color])
    labels.save(tmp_path / "a.png")
    assert PICTURES.read_mask(tmp_path / "a.png").labels.tolist() == [used]
