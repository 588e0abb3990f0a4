"""Separate images as named channels of one image: by path or DICOM element, on one grid, missing ones recorded."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from medvit.errors import ConfigError, GeometryError
from medvit.readers import find, mask_files, read
from medvit.readers.channels import FAULT, UNUSED, ChannelsConfig, combined
from medvit.readers.options import ValuesConfig
from medvit.records import Item, Refusal

SHAPE = (5, 4, 3)
T1_T2 = {"T1": r"_t1\.", "T2": r"_t2\."}


def write(path: Path, voxels: np.ndarray, *, spacing: float = 2.0, origin: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = origin
    nib.save(nib.Nifti1Image(voxels, affine), path)


def volume(value: int) -> np.ndarray:
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) + 100 * value).astype(np.int16)


def found(folder: Path, **options: object) -> list[Item | Refusal]:
    config = ChannelsConfig.parse({"names": T1_T2} | options)
    return list(combined(find([path for path in folder.rglob("*") if path.is_file()]), config, folder))


def only(entries: list[Item | Refusal]) -> Item:
    (item,) = entries
    assert isinstance(item, Item), item.reason
    return item


def reason(entries: list[Item | Refusal]) -> str:
    (refusal,) = entries
    assert isinstance(refusal, Refusal)
    assert refusal.code == FAULT
    return refusal.reason


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("{}_t1.nii", "{}_t2.nii"), T1_T2),
        (("{}/t1.nii", "{}/t2.nii"), {"T1": "t1", "T2": "t2"}),
        (("t1/{}.nii", "t2/{}.nii"), {"T1": "t1", "T2": "t2"}),
        (("imagesTr/{}_0000.nii", "imagesTr/{}_0001.nii"), {"T1": r"_0000\.", "T2": r"_0001\."}),
    ],
)
def test_paths_that_differ_only_in_the_name_of_the_channel_form_an_image(tmp_path, paths, names):
    for number, path in enumerate(paths):
        for case in ("a", "b"):
            write(tmp_path / path.format(case), volume(number))
    items = found(tmp_path, names=names)
    assert len(items) == 2
    for item in items:
        assert isinstance(item, Item)
        image = read(item)
        assert image.channels == ("T1", "T2")
        assert image.pixels.dtype == np.int16
        np.testing.assert_array_equal(image.pixels, np.stack([volume(0), volume(1)]))


def test_a_missing_channel_is_not_there_and_a_required_one_must_be(tmp_path):
    write(tmp_path / "a_t2.nii", volume(1))
    image = read(only(found(tmp_path)))
    assert image.channels == ("T2",)
    np.testing.assert_array_equal(image.pixels, volume(1)[None])
    assert "the channel T1 of channels.required is missing; found T2" in reason(found(tmp_path, required=["T1"]))


def test_an_image_that_is_no_channel_is_refused_by_itself(tmp_path):
    write(tmp_path / "a_t1.nii", volume(0))
    write(tmp_path / "a_adc.nii", volume(1))
    entries = found(tmp_path)
    assert [entry.code for entry in entries if isinstance(entry, Refusal)] == [UNUSED]
    assert len(entries) == 2


def test_ambiguous_channels_are_refused(tmp_path):
    write(tmp_path / "x" / "a_t1.nii", volume(0))
    write(tmp_path / "y" / "a_t1.nii", volume(1))
    assert "2 images are the channel T1" in reason(found(tmp_path, group="(a)_"))
    (tmp_path / "y" / "a_t1.nii").unlink()
    assert "matches the channels T1 and other" in reason(found(tmp_path, names=T1_T2 | {"other": "a_"}))
    assert "does not match the regular expression channels.group" in reason(found(tmp_path, group="(b)_"))


def test_channels_with_different_labels_are_refused(tmp_path):
    items = {
        name: Item("nifti", (tmp_path / f"a_{name}.nii",), "volume", labels={"grade": str(n)})
        for n, name in enumerate(("t1", "t2"))
    }
    entries = list(combined(items.values(), ChannelsConfig.parse({"names": T1_T2}), tmp_path))
    assert "different values of grade (0 of T1, 1 of T2)" in reason(entries)


def test_a_group_separates_what_the_path_does_not(tmp_path):
    write(tmp_path / "day1" / "p7_t1.nii", volume(0))
    write(tmp_path / "day2" / "p7_t2.nii", volume(1))
    assert len(found(tmp_path)) == 2
    assert read(only(found(tmp_path, group="(p[0-9]+)"))).channels == ("T1", "T2")


def test_channels_of_other_types_become_intensities(tmp_path):
    write(tmp_path / "a_t1.nii", volume(0))
    write(tmp_path / "a_t2.nii", (volume(1) / 8).astype(np.float32))
    image = read(only(found(tmp_path)))
    assert image.pixels.dtype == np.float32
    np.testing.assert_array_equal(image.intensities(), np.stack([volume(0), volume(1) / 8]))


def test_other_grids_are_refused_or_resampled_on_request(tmp_path):
    """A ramp along the first axis, stored at half the resolution, is the same ramp after linear interpolation."""
    fine = np.broadcast_to(np.arange(8.0)[:, None, None], (8, 6, 6)).astype(np.float32)
    write(tmp_path / "a_t1.nii", fine, spacing=1.0)
    write(tmp_path / "a_t2.nii", fine[::2, ::2, ::2].copy(), spacing=2.0)
    with pytest.raises(GeometryError, match=r"the channel T2 .* is not on the grid of the channel T1 .*resample=true"):
        read(only(found(tmp_path)))
    image = read(only(found(tmp_path, resample=True)))
    np.testing.assert_allclose(image.pixels[1, 1:-1, 1:-1, 1:-1], fine[1:-1, 1:-1, 1:-1], atol=1e-5)
    assert image.affine is not None
    assert image.affine.spacing_mm == (1.0, 1.0, 1.0)


def test_a_channel_somewhere_else_is_refused_even_with_resampling(tmp_path):
    write(tmp_path / "a_t1.nii", volume(0))
    write(tmp_path / "a_t2.nii", volume(1), origin=100.0)
    with pytest.raises(GeometryError, match="covers 0 % of the grid"):
        read(only(found(tmp_path, resample=True)))


def test_pictures_of_other_sizes_are_refused(tmp_path):
    for name, side in (("t1", 4), ("t2", 6)):
        Picture.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / f"a_{name}.png")
    with pytest.raises(GeometryError, match="6 x 6 pixels, the channel T1 4 x 4"):
        read(only(found(tmp_path)))


def test_the_label_map_of_any_channel_is_that_of_the_image_and_gives_the_grid(tmp_path):
    mask = (volume(0) % 2).astype(np.uint8)
    write(tmp_path / "a_t1.nii", volume(0), spacing=1.0)
    write(tmp_path / "a_t2.nii", volume(1))
    write(tmp_path / "a_t2_seg.nii", mask)
    item = only(found(tmp_path, resample=True))
    assert mask_files(item) == (tmp_path / "a_t2_seg.nii",)
    with pytest.raises(GeometryError, match="the channel T1 covers"):
        read(item)  # T1 covers an eighth of the grid of the label map, which is that of T2
    write(tmp_path / "a_t1.nii", volume(0))
    image = read(only(found(tmp_path)))
    np.testing.assert_array_equal(image.mask, mask)
    assert image.channels == ("T1", "T2")


def test_series_of_a_study_are_channels_by_a_dicom_element(make_series):
    paths = [make_series(name=text, description=text, study="1.2.3")[0].files for text in ("ax T1", "ax FLAIR", "loc")]
    config = ChannelsConfig(names={"T1": "t1", "FLAIR": "flair"}, match="SeriesDescription")
    files = [file for group in paths for file in group]
    root = files[0].parent.parent
    entries = list(combined(find(files), config, root))
    (item,) = [entry for entry in entries if isinstance(entry, Item)]
    assert [entry.code for entry in entries if isinstance(entry, Refusal)] == [UNUSED]
    assert item.identity.study == "1.2.3"
    assert item.modality == "MR"
    assert read(item).channels == ("FLAIR", "T1")
    assert all(part.values == "mapped" for part in ValuesConfig(mapping="R2").of(item).parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "channels.names is empty"),
        ({"names": {"T1": "("}}, "not a regular expression"),
        ({"names": {"T1+T2": "t"}}, "expected letters, digits"),
        ({"names": T1_T2, "match": "Description"}, "neither path nor the keyword"),
        ({"names": T1_T2, "group": "p"}, "0 groups in parentheses"),
        ({"names": T1_T2, "required": ["T3"]}, "T3, which channels.names does not have"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        ChannelsConfig.parse(options)
