"""Baselines of segmentation find planted discs: by a threshold, by their place, or by their surroundings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.baselines.kinds import BaselineName
from medvit.baselines.masks import Cut, train_mask_baseline, voxel_features
from medvit.baselines.subject import LabeledSplits
from medvit.geometry import Affine
from medvit.records import IGNORED
from medvit.types import Image
from tests.baselines.planted import bright, discs_in, noisy, varied


def mean_dice(splits: LabeledSplits, name: BaselineName) -> float:
    found = train_mask_baseline(name, splits, tolerance_mm=1.0, seed=0)
    is_test = np.array([row.split == "test" for row in found.rows])
    return float(found.columns["dice"][is_test].mean())


def splits_of(folder: Path, *options: object, **named: object) -> LabeledSplits:
    return LabeledSplits.of(discs_in(folder, *options, **named), "", task="segmentation")  # type: ignore[arg-type]


def test_a_threshold_segments_a_bright_disc(tmp_path: Path) -> None:
    splits = splits_of(tmp_path / "discs", bright)
    assert mean_dice(splits, "threshold") > 0.95
    assert mean_dice(splits, "background") == 0.0
    assert mean_dice(splits, "mean_mask") < 0.85  # the discs move


def test_a_threshold_segments_a_dark_disc(tmp_path: Path) -> None:
    splits = splits_of(tmp_path / "discs", lambda generator, mask: bright(generator, ~mask))
    assert mean_dice(splits, "threshold") > 0.95


def test_the_mean_label_map_segments_a_disc_that_is_always_in_the_same_place(tmp_path: Path) -> None:
    splits = splits_of(tmp_path / "discs", noisy, moves=False)
    assert mean_dice(splits, "mean_mask") > 0.95
    assert mean_dice(splits, "threshold") < 0.7


def test_the_regression_on_voxels_segments_a_disc_that_only_smoothing_shows(tmp_path: Path) -> None:
    splits = splits_of(tmp_path / "discs", noisy)
    assert mean_dice(splits, "voxels") > 0.85 > 0.7 > mean_dice(splits, "threshold")


@pytest.mark.parametrize("name", ["background", "mean_mask", "threshold", "voxels"])
def test_ignored_pixels_do_not_count(tmp_path: Path, name: BaselineName) -> None:
    splits = splits_of(tmp_path / "discs", bright)
    found = train_mask_baseline(name, splits, tolerance_mm=1.0, seed=0)
    assert set(found.columns["counted_voxels.disc"]) == {32 * 32 - 10}


def test_a_cut_by_quantile_is_unchanged_by_the_scale_of_intensities() -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
    cut = Cut(1, 0.75, 1, is_above=True, is_quantile=True)
    found = cut(Image(pixels, "image"))
    assert found.sum() == 16
    np.testing.assert_array_equal(found, cut(Image(7 * pixels + 3, "image")))


def test_a_quantile_counts_the_ignored_pixels_of_its_image_as_a_prediction_does(tmp_path: Path) -> None:
    """The brightness of images differs, and a fifth of each, which the label map ignores, is black, as in DRIVE."""
    manifest = discs_in(tmp_path / "discs", varied)
    rows = []
    for row in manifest:
        pixels, mask = manifest.store.get(row.sha256).copy(), manifest.store.get(str(row.mask)).copy()
        pixels[:, :7], mask[:7] = -10000, IGNORED
        rows.append(replace(row, sha256=manifest.store.put(pixels), mask=manifest.store.put(mask)))
    black = replace(manifest, rows=tuple(rows))
    assert mean_dice(LabeledSplits.of(black, "", task="segmentation"), "threshold") > 0.9


def test_smoothing_is_the_same_in_mm_along_all_axes() -> None:
    """An impulse in a volume with slices of 4 mm spreads 4 times less far in voxels across them."""
    pixels = np.zeros((1, 33, 33, 33), np.float32)
    pixels[0, 16, 16, 16] = 1.0
    smooth = voxel_features(Image(pixels, "volume", affine=Affine(np.diag([1.0, 1.0, 4.0, 1.0]))))[:, 4]
    found = smooth.reshape(33, 33, 33) - smooth.min()
    assert found[20, 16, 16] == pytest.approx(found[16, 20, 16])
    assert found[16, 16, 17] == pytest.approx(found[20, 16, 16], rel=0.02)
