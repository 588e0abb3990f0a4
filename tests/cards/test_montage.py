"""Montage of a data card: its choice of images, outlines of label maps, and images that must not be shown."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvit.attributes import BURNED_IN_TEXT
from medvit.cards import montage
from medvit.cards.montage import LOOKED_AT, SALT, SIDE, chosen_order, outlined_png
from medvit.config import to_yaml
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.store import Store
from medvit.document import PictureTable
from medvit.document.colors import color_of
from medvit.records import IGNORED, Row
from tests.leakage.test_leakage import row

NAMES = ("background", "left", "right")


def of_images(folder: Path, count: int, **fields: object) -> Manifest:
    """A dataset of small images, each with its own pixels and patient."""
    rows = [row(folder, n, np.full((1, 8, 8), n, np.uint8), **{"modality": "OP", **fields}) for n in range(count)]
    return Manifest(tuple(rows), Facts("toy"), folder)


def masked(manifest: Manifest, *masks: np.ndarray, names: tuple[str, ...] = NAMES) -> Manifest:
    """The same dataset with a label map for each image."""
    addresses = [manifest.store.put(mask) for mask in masks]
    rows = [replace(one, mask=address) for one, address in zip(manifest, addresses, strict=True)]
    return replace(manifest, rows=tuple(rows), facts=replace(manifest.facts, mask_classes=names))


def tables(manifest: Manifest) -> list[PictureTable]:
    (section,) = montage.sections(manifest)
    return [block for block in section.blocks if isinstance(block, PictureTable)]


def sentences(manifest: Manifest) -> str:
    (section,) = montage.sections(manifest)
    return "\n".join(block for block in section.blocks if isinstance(block, str))


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.array(picture.convert("RGB"))


def drawn_in(png: bytes, number: int) -> np.ndarray:
    """Mask of the pixels of a picture that have exactly the color of a class."""
    return (pixels(png) == np.array(list(bytes.fromhex(color_of(number)[1:])))).all(axis=-1)


def test_the_choice_is_the_first_hashes_and_depends_on_nothing_else(tmp_path: Path) -> None:
    manifest = of_images(tmp_path, 20)
    expected = sorted(
        (one.image_id for one in manifest), key=lambda name: hashlib.sha256(f"{SALT} {name}".encode()).digest()
    )
    ((_, cells),) = tables(manifest)[0].lines
    shown = [picture.title for cell in cells if not isinstance(cell, str) for picture in cell]
    assert shown == expected[:3]
    backwards = replace(manifest, rows=tuple(reversed(manifest.rows)))
    assert tables(backwards) == tables(manifest)


def test_each_patient_is_chosen_before_any_is_chosen_twice(tmp_path: Path) -> None:
    rows = [replace(one, patient_id=f"p-{n % 4}") for n, one in enumerate(of_images(tmp_path, 16))]
    order = chosen_order(rows)
    assert sorted(one.image_id for one in order) == sorted(one.image_id for one in rows)
    for start in range(0, 16, 4):
        assert len({one.patient_id for one in order[start : start + 4]}) == 4


def test_outlines_are_on_the_side_of_their_classes_in_a_picture(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[1:3, 0:3], mask[5:8, 6:8] = 1, 2  # upper left, and lower right
    ((_, cells), (_, same)) = tables(masked(of_images(tmp_path, 1), mask))[0].lines
    (picture,), (also,) = cells[0], same[0]
    assert picture.png == also.png
    for number, (rows, columns) in {1: ((1, 3), (0, 3)), 2: ((5, 8), (6, 8))}.items():
        where = np.argwhere(drawn_in(picture.png, number)) * 8 / SIDE
        assert where.min(axis=0) == pytest.approx([rows[0], columns[0]], abs=0.1)  # in pixels of the image
        assert where.max(axis=0) == pytest.approx([rows[1], columns[1]], abs=0.1)


def test_a_volume_is_shown_at_the_largest_area_of_the_class_with_front_up_and_right_at_the_left(
    tmp_path: Path,
) -> None:
    store, mask = Store(tmp_path / "images"), np.zeros((10, 20, 6), np.uint8)
    mask[7:10, 0:4, 2], mask[8, 1, 5] = 1, 1  # high I is the right, low J the back; slice 2 has the largest area
    volume = np.random.default_rng(0).normal(size=(1, 10, 20, 6)).astype(np.float32)
    one = Row(
        "i-0", "p-0", "s-0", "e-0", "MR", "volume", "toy", "train", volume.shape, "float32", store.put(volume),
        mask=store.put(mask), spacing_mm=(2.0, 1.0, 5.0),
    )  # fmt: skip
    manifest = Manifest((one,), Facts("toy", mask_classes=NAMES), tmp_path)
    ((_, cells), (_, none)) = tables(manifest)[0].lines
    (picture,) = cells[0]
    assert picture.title == "i-0, slice 3 of 6"
    assert pixels(picture.png).shape[:2] == (SIDE, SIDE)  # 10 x 2 mm across, 20 x 1 mm down
    where = np.argwhere(drawn_in(picture.png, 1)) / SIDE
    assert where[:, 0].min() == pytest.approx(16 / 20, abs=0.01)
    assert where[:, 1].max() == pytest.approx(3 / 10, abs=0.01)
    assert none == ["none", "no label map", "no label map"]


def test_instances_have_an_outline_each_in_one_color() -> None:
    labels = np.zeros((8, 8), np.int64)
    labels[2:6, 2:4], labels[2:6, 4:6] = 300, 301
    png = outlined_png(np.zeros((8, 8)), labels, height_to_width=1.0, has_classes=False)
    middle = SIDE // 2
    assert drawn_in(png, 1)[middle, middle - 1 : middle + 1].all()  # between touching instances
    assert not drawn_in(png, 2).any()


def test_ignored_pixels_are_of_no_class(tmp_path: Path) -> None:
    mask = np.full((8, 8), IGNORED, np.uint8)
    mask[:2, :2] = 1
    ((_, cells), (_, other)) = tables(masked(of_images(tmp_path, 1), mask))[0].lines
    assert drawn_in(cells[0][0].png, 1).any()
    assert other[0] == "none"
    assert pixels(cells[0][0].png)[SIDE // 2 :].max() == 0


def test_classes_without_an_image_are_stated(tmp_path: Path) -> None:
    mask = np.ones((8, 8), np.uint8)
    text = sentences(masked(of_images(tmp_path, 1), mask))
    assert text == "Without a picture: left (val, test); right (train, val, test)."


def test_rare_classes_are_searched_in_a_limited_number_of_label_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = LOOKED_AT + 5
    manifest = masked(of_images(tmp_path, count), *[np.ones((8, 8), np.uint8)] * count)
    read: list[str] = []
    get = Store.get
    monkeypatch.setattr(
        Store, "get", lambda self, address, *region: read.append(address) or get(self, address, *region)
    )
    (_, (_, rare)) = tables(manifest)[0].lines
    assert rare[0] == f"none in {LOOKED_AT} of {count} label maps"
    assert len(read) <= LOOKED_AT + 2 * 3  # and the three pictures of the other class


def test_labels_are_shown_by_class_and_numbers_are_not(tmp_path: Path) -> None:
    manifest = of_images(tmp_path, 30)
    rows = [replace(one, labels={"grade": "ab"[n % 2], "age": f"{n}.5"}) for n, one in enumerate(manifest)]
    classes = {"grade": ("a", "b", "c"), "age": tuple(f"{n}.5" for n in range(30))}
    (table,) = tables(replace(manifest, rows=tuple(rows), facts=Facts("toy", classes=classes)))
    assert [title for title, _ in table.lines] == ["a", "b", "c"]
    by_name = {one.image_id: one for one in rows}
    for title, cells in table.lines[:2]:
        assert {by_name[picture.title].labels["grade"] for picture in cells[0]} == {title}
    assert table.lines[2][1] == ["none", "none", "none"]


def test_images_with_text_in_their_pixels_are_not_shown(tmp_path: Path) -> None:
    manifest = of_images(tmp_path, 4)
    kept = [replace(one, attributes={BURNED_IN_TEXT: "kept"}) for one in manifest.rows[:3]]
    some = replace(manifest, rows=(*kept, manifest.rows[3]))
    ((_, cells),) = tables(some)[0].lines
    assert [picture.title for picture in cells[0]] == [manifest.rows[3].image_id]
    assert sentences(some).startswith("3 of 4 images are not shown")
    every = replace(manifest, rows=tuple(kept))
    ((_, cells),) = tables(every)[0].lines
    assert cells[0] == "none that may be shown"


@pytest.mark.parametrize(("policy", "is_shown"), [("keep", False), ("mask", False), ("quarantine", True)])
def test_no_image_is_shown_of_a_dataset_that_does_not_record_text(tmp_path: Path, policy: str, is_shown: bool) -> None:
    manifest = of_images(tmp_path, 2)
    (tmp_path / "config.yaml").write_text(to_yaml({"taking": {"burned_in": {"policy": policy}}}))
    ((_, cells),) = tables(manifest)[0].lines
    assert isinstance(cells[0], str) != is_shown
