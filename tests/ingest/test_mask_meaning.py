"""What values of label maps mean is decided over all of a source, and never by one file."""

from __future__ import annotations

import logging
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.ingest.mask_meaning import MaskMeaning, counted, meaning_of
from medvit.records import IGNORED
from pipelines.ingest import IngestConfig, ingest

MASKS = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=20), min_size=1, max_size=6)


def counts(*masks: list[int]) -> list[dict[int, int]]:
    return [counted(np.array(mask)) for mask in masks]


@given(st.lists(st.sampled_from([0, 128, 255]), min_size=1, max_size=9), st.sampled_from(["uint8", "uint16", "int32"]))
def test_a_value_is_one_class_in_every_label_map(one: list[int], dtype: str) -> None:
    meaning = meaning_of(counts(one, [0, 128, 255]))
    expected = np.searchsorted([0, 128, 255], one)
    assert np.array_equal(meaning.of(np.array(one, dtype)), expected)
    assert meaning.names == ("background", "value 128", "value 255")


@given(MASKS)
def test_small_numbers_are_classes_as_they_are(masks: list[list[int]]) -> None:
    meaning = meaning_of(counts(*masks))
    assert all(np.array_equal(meaning.of(np.array(mask)), mask) for mask in masks)


@pytest.mark.parametrize("white", [255, 65535])
@pytest.mark.parametrize("named", [(), ("background", "lesion")])
def test_black_and_white_are_two_classes(white: int, named: tuple[str, ...]) -> None:
    meaning = meaning_of(counts([0, white], [0, 0], [white]), named)
    assert meaning.of(np.array([[0, white]], np.uint16)).tolist() == [[0, 1]]
    assert meaning.names == (named or ("background", "class 1"))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([[0, 1], [0, 255]], r"hold 0, 1 and 255; 255 may be a class .* give mask_ignore=\[255\]"),
        ([[0, 1, 2, 65535]], "65535 may be a class or mean what is not labeled"),
        ([[0] * 90 + list(range(240, 256)) * 4 + list(range(1, 18))], "compressed with loss"),
        ([[0] * 99 + [255] * 99 + list(range(7, 250, 8))], r"33 values \(0, 7, 15, ..., 255\).* smoothed"),
    ],
)
def test_values_that_may_mean_one_thing_or_another_are_refused(masks: list[list[int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        meaning_of(counts(*masks))


@pytest.mark.parametrize("quality", [50, 75, 90, 95, 98])
def test_a_mask_saved_as_jpeg_is_refused_or_whole(quality: int) -> None:
    disk = (np.hypot(*(np.indices((96, 96)) - 40)) < 25).astype(np.uint8) * 255
    stream = BytesIO()
    Image.fromarray(disk).save(stream, "JPEG", quality=quality)
    read = np.asarray(Image.open(stream))
    assert len(np.unique(read)) > 2
    with pytest.raises(DataError, match="compressed with loss"):
        meaning_of([counted(read)])


def test_a_mapping_names_values_in_its_order_and_merges_those_of_one_name() -> None:
    meaning = meaning_of(counts([0, 7, 128, 255]), {255: "background", 7: "lesion", 128: "lesion"}, ignored=[0])
    assert meaning.names == ("background", "lesion")
    assert meaning.of(np.array([0, 7, 128, 255])).tolist() == [IGNORED, 1, 1, 0]
    with pytest.raises(DataError, match="holds 9; expected 7, 128 and 255"):
        meaning.of(np.array([0, 9]))


def test_instances_are_one_class_and_what_is_ignored_is_none() -> None:
    meaning = meaning_of(counts([0, 1, 2, 255]), values="instances", ignored=[255])
    assert meaning.of(np.array([0, 1, 2, 255])).tolist() == [0, 1, 1, IGNORED]


def test_values_that_number_things_are_hinted_at(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "medvit"):
        meaning_of(counts(*[list(range(n)) for n in (3, 12, 30)]))
    assert "mask_values=instances takes these as one class" in caplog.text


def test_values_below_zero_are_refused() -> None:
    with pytest.raises(DataError, match="holds -1; expected class numbers from 0 on"):
        MaskMeaning().of(np.array([0, -1]))


def source(folder: Path, masks: dict[str, list[int]]) -> Path:
    for name, values in masks.items():
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name) + sum(values)).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        Image.fromarray(np.resize(np.array(values, np.uint8), (8, 8))).save(folder / "masks" / f"{name}.png")
    return folder


def made(folder: Path, name: str, **options: object) -> Manifest:
    tree = {"source": folder / "in", "dataset": folder / name, "key": folder / "site.key", "name": "d"}
    tree |= {"tracking": {"enabled": False}}
    return ingest(IngestConfig.parse(tree | options))


def stored(manifest: Manifest) -> list[list[int]]:
    return sorted(np.unique(manifest.store.get(row.mask)).tolist() for row in manifest if row.mask)


def test_an_update_with_a_new_value_gives_what_a_new_ingest_gives(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", {"a": [0, 255], "b": [0, 255, 255], "cc": [0]})
    first = made(tmp_path, "first")
    assert stored(first) == [[0], [0, 1], [0, 1]]
    source(folder, {"dddd": [0, 128, 255]})
    updated, anew = made(tmp_path, "second", update=tmp_path / "first"), made(tmp_path, "third")
    assert stored(updated) == [[0], [0, 1, 2], [0, 2], [0, 2]]
    assert updated.hash == anew.hash
    assert updated.facts.mask_classes == ("background", "value 128", "value 255")


def test_images_without_a_label_map_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = source(tmp_path / "in", {"a": [0, 1], "bb": [1], "ccc": [0, 1, 1]})
    (folder / "masks" / "bb.png").unlink()
    with caplog.at_level(logging.WARNING, "medvit"):
        manifest = made(tmp_path, "out", mask_classes={0: "background", 1: "lesion"})
    (bare,) = (row.image_id for row in manifest if row.mask is None)
    assert f"1 of 3 images have no label map beside them: {bare}" in caplog.text
    assert manifest.facts.mask_classes == ("background", "lesion")
