"""Explain as a stage: files on the grid of each image, a mark that gives a class away, and refused options."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from pipelines.results.explain import explain
from tests.pipelines.results.test_robustness import as_test_split, checkpoint

QUICK: dict[str, Any] = {
    "steps": 2,
    "window": 0.5,
    "check_steps": 2,
    "random_orders": 1,
    "tracking": {"enabled": False},
    "device": "cpu",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    as_test_split(folder / "images", ndim=2)
    as_test_split(folder / "volumes", ndim=3)
    checkpoint(folder / "model")
    checkpoint(folder / "segmentation", ndim=3)
    return folder


def test_each_image_has_a_map_an_overlay_and_a_line_of_checks(place: Path, tmp_path: Path) -> None:
    report = explain(
        checkpoint=place / "model", dataset=place / "images", output=tmp_path / "maps", max_images=3, **QUICK
    )
    lines = list(csv.DictReader((report.folder / "explanations.csv").open()))
    rows = {row.image_id: row for row in Manifest.read(place / "images")}
    assert len(lines) == 3
    assert len({rows[line["image"]].labels["label"] for line in lines}) == 2  # images of both classes
    for line in lines:
        shape = rows[line["image"]].shape[1:]
        assert np.load(report.folder / line["image"] / "map.npy").shape == shape
        assert Picture.open(report.folder / line["image"] / "overlay.png").size == shape[::-1]
    assert "does not show that a marked area is abnormal" in (report.folder / "explanations.html").read_text()


def test_a_volume_has_a_nifti_on_its_grid(place: Path, tmp_path: Path) -> None:
    report = explain(
        checkpoint=place / "segmentation",
        dataset=place / "volumes",
        output=tmp_path / "maps",
        images=["i-3"],
        method="gradients",
        **QUICK,
    )
    written = nib.load(report.folder / "i-3" / "map.nii.gz")
    row = next(row for row in Manifest.read(place / "volumes") if row.image_id == "i-3")
    assert written.shape == row.shape[1:]
    assert row.affine is not None
    np.testing.assert_allclose(written.affine.ravel(), row.affine)


def test_a_single_file_is_explained_in_its_own_order_of_axes(place: Path, tmp_path: Path) -> None:
    """A NIfTI file in the order S, R, A has a map in this order."""
    affine = np.array([[0.0, 1, 0, 3], [0, 0, 1, 4], [2, 0, 0, 5], [0, 0, 0, 1]])
    voxels = np.random.default_rng(0).normal(100, 20, (8, 16, 24)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "image.nii.gz")
    report = explain(
        checkpoint=place / "segmentation",
        source=tmp_path / "image.nii.gz",
        output=tmp_path / "maps",
        method="gradients",
        **QUICK,
    )
    written = nib.load(report.folder / "image" / "map.nii.gz")
    assert written.shape == voxels.shape
    np.testing.assert_allclose(written.affine, affine)


def test_wrong_options_are_refused_with_what_to_give(place: Path, tmp_path: Path) -> None:
    given = {"checkpoint": place / "model", "output": tmp_path / "maps", **QUICK}
    with pytest.raises(ConfigError, match="dataset=FOLDER or source=PATH; neither is given"):
        explain(**given)
    with pytest.raises(ConfigError, match="max_images is an option for a dataset, and source is given"):
        explain(**given, source=place, max_images=2)
    with pytest.raises(ConfigError, match="images names i-99, which is not among the images"):
        explain(**given, dataset=place / "images", images=["i-99"])
    with pytest.raises(ConfigError, match="target=grey: the model does not predict it; give one of dark, bright"):
        explain(**given, dataset=place / "images", target="grey")
    with pytest.raises(ConfigError, match="no method 'cam'"):
        explain(**given, dataset=place / "images", method="cam")
    with pytest.raises(DataError, match="the val split has no image"):
        explain(**given, dataset=place / "images", split="val")
