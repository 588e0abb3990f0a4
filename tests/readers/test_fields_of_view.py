"""Fields of view are paired by name, are on the grid of their images, and have one value inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from medvit.errors import ConfigError, DataError, GeometryError
from medvit.ingest.scan import ScanningConfig
from medvit.readers import find, read, read_field
from medvit.readers.fields_of_view import inside
from medvit.readers.label_maps import LabelMap
from medvit.records import Item, Refusal
from medvit.types import Image


def write(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(np.zeros((2, 3), np.uint8)).save(folder / name)
    return sorted(folder / name for name in names)


def of(found: list[Item | Refusal]) -> tuple[list[Item], list[Refusal]]:
    return [one for one in found if isinstance(one, Item)], [one for one in found if isinstance(one, Refusal)]


@pytest.mark.parametrize("field", ["mask/21_training_mask.gif", "Mask/21_training.png", "mask/21_fov.png"])
def test_a_field_of_view_is_paired_by_name_and_is_not_a_label_map(tmp_path: Path, field: str) -> None:
    files = write(tmp_path, "images/21_training.png", "1st_manual/21_manual1.png", field)
    (item,), refused = of(list(find(files, field_of_view_folder=["mask"])))
    assert item.mask == tmp_path / "1st_manual" / "21_manual1.png"
    assert item.field_of_view == tmp_path / field
    assert not refused


def test_a_field_of_view_without_an_image_and_a_second_one_are_refused(tmp_path: Path) -> None:
    files = write(tmp_path, "images/a.png", "labels/a.png", "mask/a.png", "mask/a_mask.png", "mask/b.png")
    items, refused = of(list(find(files, field_of_view_folder=["mask"])))
    assert [item.field_of_view for item in items] == [tmp_path / "mask" / "a.png"]
    assert [(one.files[0].name, one.code) for one in refused] == [("a_mask.png", "data"), ("b.png", "label_map")]


def test_an_image_with_a_label_map_but_no_field_of_view_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path, "images/a.png", "images/b.png", "images/c.png", "labels/a.png", "labels/b.png")
    items, refused = of(list(find([*files, *write(tmp_path, "mask/a.png")], field_of_view_folder=["mask"])))
    assert [item.files[0].name for item in items] == ["a.png", "c.png"]
    assert [[file.name for file in one.files] for one in refused] == [["b.png", "b.png"]]
    assert "label map but no field of view" in refused[0].reason


def test_folders_without_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file of the source is in a folder 'fov'; scanning\.field_of_view_folder"):
        list(find(write(tmp_path, "images/a.png"), field_of_view_folder=["fov"]))


def test_a_field_of_view_of_another_size_is_refused() -> None:
    image = Image(np.zeros((3, 4, 5), np.uint8), "image")
    with pytest.raises(GeometryError, match=r"the field of view has shape \(4, 6\), its image \(4, 5\)"):
        inside(image, LabelMap(np.ones((4, 6), np.uint8)))


@pytest.mark.parametrize(("values", "found"), [([0, 3, 255], "3 values, 0 to 255"), ([0, 0], "1 values, 0 to 0")])
def test_a_field_of_view_with_other_values_is_refused(values: list[int], found: str) -> None:
    image = Image(np.zeros((1, 1, len(values)), np.uint8), "image")
    with pytest.raises(DataError, match=f"the field of view contains {found}; expected 0 outside"):
        inside(image, LabelMap(np.array([values], np.uint8)))


def test_a_field_of_view_in_color_is_refused_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, "images/a.png", "labels/a.png", "mask/a.png")
    Pillow.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3)).save(tmp_path / "mask" / "a.png")
    (item,) = find(sorted(tmp_path.rglob("*.png")), field_of_view_folder=["mask"])
    assert isinstance(item, Item)
    with pytest.raises(DataError, match=r"file of the field of view cannot be read as a label map: .* in color"):
        read_field(item, read(item))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_folder": ["mask"]}, "mask_folder and field_of_view_folder both name Mask"),
        ({"stacks": {"spacing_mm": [1, 1, 1]}}, "field_of_view_folder does not work with stacks"),
    ],
)
def test_contradicting_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScanningConfig.parse({"field_of_view_folder": ["Mask"], **options})


def test_the_fields_of_view_of_drive_cover_two_thirds_and_nearly_all_vessels(shared_data: Path) -> None:
    files = sorted(path for path in (shared_data / "drive" / "test").rglob("0[1-3]*") if path.is_file())
    items = [item for item in find(files, field_of_view_folder=["mask"]) if isinstance(item, Item)]
    assert len(items) == 3
    for item in items:
        image = read(item)
        field = read_field(item, image)
        assert field is not None
        assert image.mask is not None
        assert 0.65 < field.mean() < 0.7
        assert (image.mask[~field] > 0).sum() < 0.002 * (image.mask > 0).sum()
