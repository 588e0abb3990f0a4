"""The meaning of label-map values is decided over a whole source, and never by one file."""

from __future__ import annotations

import logging
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.ingest.mask_meaning import MaskCounts, MaskMeaning, counted, meaning_of
from medvit.records import IGNORED
from pipelines.ingest import IngestConfig, ingest

MASKS = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=20), min_size=1, max_size=6)


def counts(*masks: list[int]) -> list[MaskCounts]:
    """Counts of label maps in which each value stands for an area of 8 x 8 pixels."""
    return [counted(np.kron(np.array(mask), np.ones((8, 8), int))) for mask in masks]


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
        (
            [[0, 1], [0, 255]],
            r"contain the values 0, 1 and 255; 255 may be a class .* give labeling.mask_ignore=\[255\]",
        ),
        ([[0, 1, 2, 65535]], "65535 may be a class or mean unlabeled"),
        ([[0] * 90 + list(range(240, 256)) * 4 + list(range(1, 18))], "lossily compressed"),
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
    with pytest.raises(DataError, match="lossily compressed"):
        meaning_of([counted(read)])


def test_a_mapping_names_values_in_its_order_and_merges_those_of_one_name() -> None:
    meaning = meaning_of(counts([0, 7, 128, 255]), {255: "background", 7: "lesion", 128: "lesion"}, ignored=[0])
    assert meaning.names == ("background", "lesion")
    assert meaning.of(np.array([0, 7, 128, 255])).tolist() == [IGNORED, 1, 1, 0]
    with pytest.raises(DataError, match="contains the value 9; expected 7, 128 and 255"):
        meaning.of(np.array([0, 9]))


def test_instances_are_one_class_and_what_is_ignored_is_none() -> None:
    meaning = meaning_of(counts([0, 1, 2, 255]), values="instances", ignored=[255])
    assert meaning.of(np.array([0, 1, 2, 255])).tolist() == [0, 1, 1, IGNORED]


def test_values_that_number_things_are_hinted_at(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "medvit"):
        meaning_of(counts(*[list(range(n)) for n in (3, 12, 30)]))
    assert "set labeling.mask_values=instances to make them one class" in caplog.text


def test_values_below_zero_are_refused() -> None:
    with pytest.raises(DataError, match="contains the value -1; expected class numbers from 0 upwards"):
        MaskMeaning().of(np.array([0, -1]))


def source(folder: Path, masks: dict[str, list[int]]) -> Path:
    for name, values in masks.items():
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(len(name) + sum(values))
        pixels = rng.integers(0, 255, (8, 8 * len(values)), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        Image.fromarray(np.repeat(np.array(values, np.uint8), 8)[None].repeat(8, axis=0)).save(
            folder / "masks" / f"{name}.png"
        )
    return folder


def made(folder: Path, name: str, *, update: Path | None = None, **labeling: object) -> Manifest:
    tree: dict[str, object] = {
        "source": folder / "in",
        "dataset": folder / name,
        "key": folder / "site.key",
        "name": "d",
    }
    tree |= {"tracking": {"enabled": False}, "labeling": labeling, "update": update}
    return ingest(IngestConfig.parse(tree))


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


@pytest.mark.parametrize(
    ("masks", "asked", "recorded"),
    [
        ({"a": [0, 255], "bb": [0, 255]}, {}, {0: "background", 255: "class 1"}),
        ({"a": [0, 1], "bb": [0, 2]}, {}, ("background", "class 1", "class 2")),
        ({"a": [0, 3], "bb": [0, 7]}, {"mask_values": "instances"}, ("background", "class 1")),
        ({"a": [0, 255], "bb": [0]}, {"mask_classes": ["none", "lesion"]}, {0: "none", 255: "lesion"}),
    ],
)
def test_what_is_recorded_of_label_maps_is_what_they_were_taken_for(
    tmp_path: Path, masks: dict[str, list[int]], asked: dict[str, object], recorded: object
) -> None:
    source(tmp_path / "in", masks)
    first = made(tmp_path, "first", **asked)
    kept = yaml.safe_load((first.folder / "config.yaml").read_text(encoding="utf-8"))
    assert IngestConfig.parse({**kept, "source": "x", "dataset": "y"}).labeling.mask_classes == recorded
    again = made(tmp_path, "again", **kept["labeling"])
    assert again.hash == first.hash, "what is in force, asked for, gives the same"


def test_images_without_a_label_map_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = source(tmp_path / "in", {"a": [0, 1], "bb": [1], "ccc": [0, 1, 1]})
    (folder / "masks" / "bb.png").unlink()
    with caplog.at_level(logging.WARNING, "medvit"):
        manifest = made(tmp_path, "out", mask_classes={0: "background", 1: "lesion"})
    (bare,) = (row.image_id for row in manifest if row.mask is None)
    assert f"1 of 3 images have no label map: {bare}" in caplog.text
    assert manifest.facts.mask_classes == ("background", "lesion")


def disk(side: int, radius: float) -> Image.Image:
    return Image.fromarray((np.hypot(*(np.indices((side, side)) - side / 2.1)) < radius).astype(np.uint8) * 255)


@pytest.mark.parametrize("sampling", [Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
@pytest.mark.parametrize("num_levels", [3, 5, 9, 16])
def test_black_and_white_shrunk_with_smoothing_is_refused_however_few_its_levels(
    sampling: Image.Resampling, num_levels: int
) -> None:
    small = np.asarray(disk(96, 31.0).resize((32, 32), sampling)).astype(float)
    levels = np.round(np.round(small / 255 * (num_levels - 1)) * 255 / (num_levels - 1)).astype(np.uint8)
    plain = counted(np.asarray(disk(32, 9.0)))
    message = r"found only between lower and higher values.*mask_classes=\{0: background, .*mask_ignore=\["
    with pytest.raises(DataError, match=rf"{message}|smoothed or lossily compressed"):
        meaning_of([plain, counted(levels), plain])


@pytest.mark.parametrize("top", [10, 50, 63])
@pytest.mark.parametrize("sampling", [Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_a_smoothed_map_of_one_class_is_refused_whatever_its_value(top: int, sampling: Image.Resampling) -> None:
    small = np.asarray(disk(192, 61.0).resize((48, 48), sampling)).astype(float)
    shaded = np.round(small / 255 * top).astype(np.uint8)
    with pytest.raises(DataError, match=rf"as in a map of one class, 0 and {top}, .*mask_classes=\{{0: background, "):
        meaning_of([counted(shaded)])
    assert meaning_of([counted(shaded)], [str(value) for value in range(top + 1)]).classes is None


def test_layers_rings_and_touching_parts_that_are_numbered_stay_classes() -> None:
    layers = np.arange(10, dtype=np.uint8).repeat(2)[:, None].repeat(32, axis=1)  # of two pixels, all between others
    rings = (4 - np.minimum(np.hypot(*(np.indices((64, 64)) - 31.5)) // 8, 4)).astype(np.uint8)  # areas, not edges
    cells = np.arange(16, dtype=np.uint8).reshape(4, 4).repeat(9, axis=0).repeat(9, axis=1)
    for labels in (layers, rings, cells):
        assert meaning_of([counted(labels)]).classes is None


def test_edges_of_a_large_volume_are_found_in_slabs_as_in_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = np.asarray(disk(96, 31.0).resize((32, 32), Image.Resampling.BOX)).astype(float)
    volume = np.round(plane / 255 * 40).astype(np.uint8)[..., None].repeat(40, axis=2)
    whole = counted(volume)
    monkeypatch.setattr("medvit.ingest.mask_meaning.MAX_SEARCHED", 1000)
    assert counted(volume) == whole


def test_one_edge_level_beside_gray_levels_with_areas_is_named_alone() -> None:
    labels = np.repeat(np.array([0, 85, 170, 255], np.uint8), 8)[None].repeat(8, axis=0)
    assert meaning_of([counted(labels)]).names == ("background", "value 85", "value 170", "value 255")
    edged = labels.copy()
    edged[:, 23:24] = 212
    with pytest.raises(DataError, match=r"; 212 is found only between .*mask_ignore=\[212\]"):
        meaning_of([counted(edged)])
    assert meaning_of([counted(edged)], ignored=[212]).names[-1] == "value 255"
    assert meaning_of([counted(edged), counted(np.array([[0, 0], [212, 212]], np.uint8).repeat(4, 0))]).names[-2] == (
        "value 212"
    ), "all label maps together decide"


def test_a_thin_class_in_the_background_is_no_edge() -> None:
    labels = np.zeros((16, 16), np.uint8)
    labels[8], labels[2:6, 2:6] = 128, 255
    assert meaning_of([counted(labels)]).names == ("background", "value 128", "value 255")


@given(MASKS)
def test_counts_are_the_same_after_they_were_written(masks: list[list[int]]) -> None:
    for one in counts(*[[6 * value for value in mask] for mask in masks]):
        assert MaskCounts.of_texts(one.as_texts()) == one
