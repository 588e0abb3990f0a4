"""Labels measured from label maps equal what is counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medvit.dataset.manifest import Manifest
from medvit.dataset.measures import with_measures
from medvit.engine import EngineConfig
from medvit.errors import DataError
from pipelines.datasets.merge import merge
from pipelines.ingest import ingest

OFF = {"enabled": False}
LIVER, SPLEEN = (slice(2, 6), slice(2, 6), slice(0, 4)), (slice(9, 12), slice(9, 12), slice(3, 8))


def volumes(folder: Path, **labeling: object) -> Manifest:
    """Ingest three volumes of 2 x 2 x 4 mm; the second lacks a spleen."""
    for number in range(3):
        labels = np.zeros((16, 16, 8), np.uint8)
        labels[LIVER] = 1
        if number != 1:
            labels[SPLEEN] = 2
        pixels = np.random.default_rng(number).normal(0, 100, labels.shape).astype(np.int16)
        for name, array in (("images", pixels), ("labels", labels)):
            path = folder / "source" / name / f"{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 4.0, 1.0])), path)
    return ingest(
        source=folder / "source",
        dataset=folder / "dataset",
        key=folder / "key",
        scanning={"modality": "CT"},
        labeling={"mask_classes": ["background", "liver", "spleen"], **labeling},
        splits={"test": 0.0, "val": 0.0},
        tracking=OFF,
    )


def test_volumes_are_voxels_times_their_size_and_an_absent_class_has_none(tmp_path: Path) -> None:
    manifest = volumes(tmp_path, measures=["present", "volume_ml", "objects"])
    assert {row.labels["volume_ml_liver"] for row in manifest} == {f"{64 * 16 / 1000:.6g}"}
    spleens = sorted((row.labels["volume_ml_spleen"], row.labels["present_spleen"]) for row in manifest)
    assert spleens == [("0", "no"), *[(f"{45 * 16 / 1000:.6g}", "yes")] * 2]
    assert sorted(row.labels["objects_spleen"] for row in manifest) == ["0", "1", "1"]
    assert manifest.facts.positive == {"present_liver": "yes", "present_spleen": "yes"}
    assert "volume_ml_spleen" in manifest.facts.classes


def test_a_class_that_is_not_annotated_in_an_image_is_not_measured_there(tmp_path: Path) -> None:
    manifest = volumes(tmp_path, measures=["present"])
    rows = [replace(row, labels={}, annotated=("liver",)) for row in manifest]
    classes = manifest.facts.mask_classes
    found = with_measures(rows, manifest.store, classes, ["present"], engine=EngineConfig())
    assert [dict(row.labels) for row in found] == [{"present_liver": "yes"}] * 3


def test_presence_in_slices_is_that_of_the_slice_and_not_of_the_volume(tmp_path: Path) -> None:
    volumes(tmp_path, measures=["present"])
    merged = merge(
        datasets=[tmp_path / "dataset"], output=tmp_path / "slices", slices=8, measures=["present"], tracking=OFF
    )
    assert len(merged.rows) == 24
    for row in merged:
        labels = merged.store.get(str(row.mask))
        assert row.labels["present_liver"] == ("yes" if (labels == 1).any() else "no")
        assert row.labels["present_spleen"] == ("yes" if (labels == 2).any() else "no")
    assert {row.labels["present_spleen"] for row in merged} == {"yes", "no"}


def test_touching_instances_are_counted_one_by_one_and_touching_regions_as_one(tmp_path: Path) -> None:
    labels = np.zeros((32, 32), np.uint16)
    labels[4:8, 4:8], labels[8:12, 8:12], labels[20:24, 4:8] = 1, 2, 7  # the first two touch at a corner
    for name, array in (("images", labels.astype(np.uint8) * 20), ("labels", labels)):
        (tmp_path / "source" / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(array + (number if name == "images" else 0)).save(
                tmp_path / "source" / name / f"{number}.png"
            )
    given = {"source": tmp_path / "source", "key": tmp_path / "key", "splits": {"test": 0.0}, "tracking": OFF}
    for values, count in (("instances", "3"), ("classes", None)):
        names = ["background", "cell"] if count else {0: "background", 1: "a", 2: "b", 7: "c"}
        manifest = ingest(
            dataset=tmp_path / values,
            labeling={"mask_values": values, "mask_classes": names, "measures": ["objects"]},
            curation={"duplicates": "keep"},
            **given,
        )
        found = [dict(row.labels) for row in manifest]
        assert found == [{"objects_cell": count} if count else {f"objects_{name}": "1" for name in "abc"}] * 2
    again = merge(datasets=[tmp_path / "instances"], output=tmp_path / "merged", measures=["objects"], tracking=OFF)
    assert [row.labels["objects_cell"] for row in again] == ["2", "2"]


def test_without_label_maps_or_scale_nothing_is_made_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = volumes(tmp_path, measures=["area_mm2"])
    assert all(row.labels == {} for row in manifest)
    assert "area_mm2_liver is missing for 3 of 3 images" in caplog.text
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "pictures" / "a.png")
    with pytest.raises(DataError, match="needs label maps"):
        ingest(
            source=tmp_path / "pictures",
            dataset=tmp_path / "none",
            key=tmp_path / "key",
            labeling={"measures": ["present"]},
            tracking=OFF,
        )


def test_hippocampal_volumes_are_those_of_the_files(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "msd-hippocampus"
    if not source.is_dir():
        pytest.skip("msd-hippocampus does not lie beside the project")
    files = sorted((source / "labels").glob("*.nii.gz"))[:3]
    for name in ("images", "labels"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for file in files:
            (tmp_path / "few" / name / file.name).symlink_to(source / name / file.name)
    manifest = ingest(
        source=tmp_path / "few",
        dataset=tmp_path / "dataset",
        key=tmp_path / "key",
        scanning={"modality": "MR"},
        labeling={"mask_classes": ["background", "anterior", "posterior"], "measures": ["volume_ml"]},
        tracking=OFF,
    )
    images = [nib.load(file) for file in files]
    by_hand = sorted(
        f"{(np.asarray(one.dataobj) == 1).sum() * np.prod(one.header.get_zooms()[:3]) / 1000:.6g}" for one in images
    )
    assert sorted(row.labels["volume_ml_anterior"] for row in manifest) == by_hand
