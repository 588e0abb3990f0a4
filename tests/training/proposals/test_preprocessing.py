"""Proposed preprocessing suits the training images; given options remain as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.dataset.manifest import Facts, Manifest
from medvit.errors import DataError
from medvit.records import Row
from medvit.training.proposals import Proposals
from medvit.training.proposals.preprocessing import propose_preprocess
from medvit.transforms.preprocess import Preprocess
from tests.dataset.test_fingerprint import made, some_volumes


def proposed(
    training: Manifest, given: Preprocess | None = None, task: str = "segmentation"
) -> tuple[Preprocess, dict]:
    proposals = Proposals(training)
    found = propose_preprocess(proposals, given, task, training)
    return found, {one.key: one for one in proposals.made}


def pictures(folder: Path, images: list[np.ndarray]) -> Manifest:
    """Return a manifest of training images (channels, height, width)."""
    folder.mkdir()
    empty = Manifest((), Facts("tiny"), folder)
    rows = [
        Row(
            f"i-{n}", f"p-{n}", f"s-{n}", f"e-{n}", "", "image", "tiny", "train", one.shape, str(one.dtype),
            empty.store.put(one),
        )
        for n, one in enumerate(images)
    ]  # fmt: skip
    return replace(empty, rows=tuple(rows))


def test_spacings_that_differ_are_resampled_to_their_median_but_slices_far_apart_finer(tmp_path: Path) -> None:
    found, made_by = proposed(made(tmp_path / "data", some_volumes()))
    assert found.spacing_mm == (1.0, 1.0, pytest.approx(np.percentile([4, 3, 5, 2], 10)))
    assert "10th percentile" in made_by["preprocess.spacing_mm"].reason


def test_equal_spacings_are_kept_and_missing_ones_are_not_needed(tmp_path: Path) -> None:
    equal = [(voxels, mask, (1.0, 1.0, 2.0)) for voxels, mask, _ in some_volumes()]
    training = made(tmp_path / "data", equal)
    found, made_by = proposed(training)
    assert found.spacing_mm is None
    assert "about the same spacing, 1 x 1 x 2 mm" in made_by["preprocess.spacing_mm"].reason
    lacking = replace(training.rows[0], spacing_mm=None, affine=None)
    found, made_by = proposed(replace(training, rows=(lacking, *training.rows[1:])))
    assert found.spacing_mm is None
    assert "1 of 4 volumes have no spacing" in made_by["preprocess.spacing_mm"].reason


def test_ct_is_clipped_and_standardized_by_its_foreground(tmp_path: Path) -> None:
    volumes = some_volumes()
    training = made(tmp_path / "data", volumes)
    found, _ = proposed(training)
    inside = np.concatenate([voxels[0][mask > 0] for voxels, mask, _ in volumes]).astype(float)
    low = np.percentile(inside, 0.5)
    values = np.array([[low - 50.0, low, inside.mean(), inside.mean() + inside.std()]], dtype=np.float32)
    scaled = found.intensity(values, np.dtype(np.int16))[0]
    assert scaled[0] == scaled[1], "clipped"
    assert scaled[2:] == pytest.approx([0.0, 1.0], abs=0.01)


def test_images_of_8_bits_get_zero_mean_and_unit_variance_over_the_training_images(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(low, low + 90, (3, 8, 9)).astype(np.uint8) for low in (10, 60, 120)]
    training = pictures(tmp_path / "data", images)
    found, _ = proposed(training, task="classification")
    scaled = np.stack([found.intensity(one.astype(np.float32), one.dtype) for one in images])
    assert np.allclose(scaled.mean(axis=(0, 2, 3)), 0.0, atol=0.005)
    assert np.allclose(scaled.std(axis=(0, 2, 3)), 1.0, atol=0.005)
    assert (found.kind, found.channels, found.size) == ("image", 3, (224, 224))
    assert proposed(training)[0].size is None, "a segmentation keeps the resolution"


def test_given_options_are_not_changed_and_not_proposed(tmp_path: Path) -> None:
    training = made(tmp_path / "data", some_volumes())
    whole = Preprocess(kind="volume")
    assert proposed(training, whole) == (whole, {})
    for given in ({"spacing_mm": (2.0, 2.0, 2.0)}, {"intensity": {"method": "zscore"}}, {"channels": 3}):
        found, made_by = proposed(training, Preprocess.parse(given))
        (key,) = given
        assert getattr(found, key) == getattr(Preprocess.parse(given), key)
        assert f"preprocess.{key}" not in made_by
        assert made_by.keys() > {"preprocess.kind"}


def test_a_size_of_fields_of_view_is_proposed_because_they_are_resized(tmp_path: Path) -> None:
    training = pictures(tmp_path / "data", [np.zeros((3, 60, 80), np.uint8)])
    found, _ = proposed(training, Preprocess.model_construct(_fields_set={"field_of_view"}, field_of_view={}))
    assert found.size == (60, 60)


def test_the_most_frequent_kind_is_proposed_where_images_and_volumes_are_mixed(tmp_path: Path) -> None:
    volumes = made(tmp_path / "data", some_volumes())
    image = np.zeros((1, 5, 5), np.uint8)
    other = replace(volumes.rows[0], kind="image", shape=image.shape, sha256=volumes.store.put(image), mask=None)
    found, made_by = proposed(replace(volumes, rows=(other, *volumes.rows[1:])))
    assert found.kind == "volume"
    assert made_by["preprocess.kind"].reason == "3 of 4 training images are of this kind"
    with pytest.raises(DataError, match="has no image"):
        proposed(replace(volumes, rows=()))
