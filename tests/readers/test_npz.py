from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.readers import find, read


def write(path: Path, shape: tuple[int, ...], labels: np.ndarray | None = None, **arrays: np.ndarray) -> Path:
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    targets = np.arange(shape[0])[:, None] if labels is None else labels
    np.savez_compressed(path, train_images=images, train_labels=targets, **arrays)
    return path


@pytest.mark.parametrize(
    ("shape", "kind", "read_as"),
    [
        ((3, 8, 9), "image", (1, 8, 9)),
        ((3, 8, 9, 3), "image", (3, 8, 9)),
        ((3, 8, 9, 10), "volume", (1, 8, 9, 10)),
        ((3, 8, 9, 10, 1), "volume", (1, 8, 9, 10)),
    ],
)
def test_each_image_is_an_item_with_split_and_label(tmp_path: Path, shape, kind, read_as):
    items = list(find([write(tmp_path / "a.npz", shape, test_images=np.zeros(shape, np.uint8))]))
    assert [(item.split, item.index) for item in items] == [
        *(("train", n) for n in range(3)),
        *(("test", n) for n in range(3)),
    ]
    assert [dict(item.labels) for item in items[2:4]] == [{"label": "2"}, {}]
    assert len({item.identity.series for item in items}) == 6
    assert items[0].kind == kind
    assert read(items[0]).pixels.shape == read_as


def test_pixels_are_those_of_the_index(tmp_path: Path):
    path = write(tmp_path / "a.npz", (3, 8, 9, 3))
    items = list(find([path]))
    with np.load(path) as arrays:
        assert np.array_equal(read(items[1]).pixels, arrays["train_images"][1].transpose(2, 0, 1))


def test_several_labels_an_image_have_a_name_each(tmp_path: Path):
    items = list(find([write(tmp_path / "a.npz", (2, 8, 8), np.array([[0, 1], [1, 1]]))]))
    assert dict(items[0].labels) == {"label_0": "0", "label_1": "1"}


def test_pickled_objects_are_never_loaded(tmp_path: Path):
    np.savez(tmp_path / "a.npz", train_images=np.array([{"a": 1}], dtype=object))
    (found,) = find([tmp_path / "a.npz"])
    assert found.code == "unsupported"


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"x": np.zeros(3)}, "unsupported"),
        ({"train_images": np.zeros((2, 4, 4)), "train_labels": np.zeros(3, int)}, "data"),
    ],
)
def test_other_archives_are_refused_with_a_reason(tmp_path: Path, arrays, code):
    np.savez(tmp_path / "a.npz", **arrays)
    (found,) = find([tmp_path / "a.npz"])
    assert found.code == code


def test_real_official_splits_are_kept(shared_data: Path):
    items = list(
        find(
            [
                shared_data / "medmnist" / f"{name}mnist{suffix}.npz"
                for name, suffix in (("adrenal", "3d"), ("retina", ""))
            ]
        )
    )
    counts = {
        (kind, split): sum(item.kind == kind and item.split == split for item in items)
        for kind in ("image", "volume")
        for split in ("train", "val", "test")
    }
    assert list(counts.values()) == [1080, 120, 400, 1188, 98, 298]
    assert sum(item.labels == {"label": "4"} and item.split == "train" for item in items) == 66
    assert read(items[0]).pixels.shape == (1, 28, 28, 28)


@pytest.mark.parametrize("num_channels", [2, 4, 5])
def test_a_few_channels_are_not_taken_for_slices(tmp_path: Path, num_channels: int):
    (found,) = find([write(tmp_path / "a.npz", (3, 8, 9, num_channels))])
    assert found.code == "unsupported"
    assert "channels or slices" in found.reason
