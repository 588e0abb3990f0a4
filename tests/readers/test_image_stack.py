"""Folders of pictures as volumes: complete, in order, with the geometry of the config."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray as Array
from PIL import Image

from medvit import phantoms
from medvit.errors import ConfigError
from medvit.phantoms import oct as tomogram
from medvit.readers import find, read
from medvit.readers.image_stack import StacksConfig
from medvit.records import Item, Refusal

CONFIG = StacksConfig(spacing_mm=(0.25, 0.004, 0.012))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of five gray pictures of 6 x 8 pixels, all values different, numbered 8 to 12."""
    for number in range(5):
        _write(tmp_path / f"scan-{number + 8}.png", np.arange(48).reshape(6, 8) + 48 * number)
    return tmp_path


def _write(path: Path, pixels: Array) -> None:
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def found(folder: Path, config: StacksConfig | None = CONFIG) -> list[Item | Refusal]:
    return list(find(sorted(folder.rglob("*.png")), stacks=config))


def refused(folder: Path, config: StacksConfig = CONFIG) -> str:
    (one,) = found(folder, config)
    assert isinstance(one, Refusal)
    assert len(one.files) == len(list(folder.rglob("*.png")))
    return one.reason


def test_without_a_config_each_picture_is_an_image(scans: Path) -> None:
    assert [one.kind for one in found(scans, None) if isinstance(one, Item)] == ["image"] * 5


@pytest.mark.parametrize("axes", ["LPS", "LPI", "RAS", "SAR", "PSL"])
def test_every_voxel_lies_where_the_config_says(scans: Path, axes: str) -> None:
    (item,) = found(scans, StacksConfig(spacing_mm=CONFIG.spacing_mm, axes=axes))
    assert isinstance(item, Item)
    image = read(item)
    assert image.affine is not None
    directions = {**dict(zip("RAS", np.eye(3), strict=True)), **dict(zip("LPI", -np.eye(3), strict=True))}
    step = np.array([directions[axes[axis]] * mm for axis, mm in enumerate((0.012, 0.004, 0.25))])
    column, row, number = 7, 2, 3
    place = np.rint(image.affine.inverse()(np.array([column, row, number]) @ step)).astype(int)
    assert image.pixels[(0, *place)] == row * 8 + column + 48 * number


def test_numbers_and_not_names_give_the_order(scans: Path) -> None:
    (item,) = found(scans)  # "scan-10" sorts before "scan-8"
    assert [file.stem for file in item.files] == [f"scan-{number}" for number in range(8, 13)]


def test_a_missing_picture_is_refused_in_one_sentence(scans: Path) -> None:
    (scans / "scan-10.png").unlink()
    assert refused(scans) == (
        "the pictures of a stack are numbered 8 to 12, and 1 of them is missing (10); "
        "expected one picture for each number"
    )


def test_a_missing_last_picture_is_found_where_their_number_is_known(scans: Path) -> None:
    config = StacksConfig(spacing_mm=CONFIG.spacing_mm, num_slices=6)
    assert refused(scans, config) == "a stack has 5 images; expected 6, as set by stacks.num_slices"


def test_two_pictures_of_one_number_or_none_are_refused(scans: Path) -> None:
    _write(scans / "copy-9.png", np.zeros((6, 8)))
    assert "several images of a stack have the same number" in refused(scans)
    (scans / "copy-9.png").rename(scans / "copy.png")
    assert "contains no number" in refused(scans)


def test_pictures_of_two_sizes_are_refused_in_reading(scans: Path) -> None:
    _write(scans / "scan-13.png", np.zeros((7, 8)))
    (item,) = found(scans)
    assert isinstance(item, Item)
    with pytest.raises(ValueError, match="differ in size or type \\(6x8 uint8, 7x8 uint8\\); expected one"):
        read(item)


@pytest.mark.parametrize("axes", ["LP", "LPX", "LRS"])
def test_axes_that_are_none_are_refused(axes: str) -> None:
    with pytest.raises(ConfigError, match="expected one letter each of R/L, A/P and S/I"):
        StacksConfig.parse({"spacing_mm": [1, 1, 1], "axes": axes})


def test_a_phantom_of_pictures_is_that_of_dicom_with_its_layers(tmp_path: Path) -> None:
    phantoms.write_oct_stacks(tmp_path / "stacks", 1, seed=3)
    phantoms.write_oct_studies(tmp_path / "dicom", 1, seed=3)
    (stack,) = found(tmp_path / "stacks", StacksConfig(spacing_mm=tomogram.SPACING_MM))
    assert isinstance(stack, Item)
    one = read(stack)
    (item,) = find(sorted(tmp_path.rglob("OCT000-right.dcm")))
    assert isinstance(item, Item)
    other = read(item)
    assert np.array_equal(one.pixels, other.pixels)
    assert one.affine is not None
    assert other.affine is not None
    assert one.affine.spacing_mm == pytest.approx(other.affine.spacing_mm, rel=1e-6)
    assert one.mask is not None
    assert one.mask.shape == one.pixels.shape[1:]
    assert set(np.unique(one.mask)) >= {0, 1, 2, 3}
