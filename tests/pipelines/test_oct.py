"""OCT from its files to a dataset and a model: multi-frame DICOM, stacks of B-scans, and their defects."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from medvit import phantoms
from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError
from medvit.phantoms import oct as tomogram
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.predict import predict

FRAMES, ROWS, COLUMNS = tomogram.SHAPE


def take(source: Path, **options: Any) -> Manifest:
    dataset = source.parent / f"{source.name}-dataset"
    key = source.parent / "site.key"
    ingest(source=source, dataset=dataset, key=key, tracking={"enabled": False}, **options)
    return Manifest.read(dataset)


@pytest.mark.usefixtures("whole_figures")
def test_dicom_tomograms_become_volumes_with_their_eye_and_spacing(tmp_path: Path) -> None:
    phantoms.write_oct_studies(tmp_path / "oct", 3)
    manifest = take(tmp_path / "oct", labeling={"from_folders": "folder"})
    assert len(manifest) == 6
    between, deep, along = tomogram.SPACING_MM
    for row in manifest:
        assert (row.kind, row.modality, row.shape) == ("volume", "OPT", (1, COLUMNS, ROWS, FRAMES))
        assert row.spacing_mm == pytest.approx((along, deep, between))
        assert row.flags == ()
        assert row.labels["label"] in phantoms.OCT_CLASSES
    assert sorted(row.attributes["laterality"] for row in manifest) == ["left"] * 3 + ["right"] * 3
    sides: dict[str, set[str]] = {}
    for row in manifest:
        sides.setdefault(row.patient_id, set()).add(row.split)
    assert all(len(splits) == 1 for splits in sides.values())
    card = (manifest.folder / "card.md").read_text(encoding="utf-8")
    assert "](card/en-face.png)" in card
    assert (manifest.folder / "card" / "en-face.png").stat().st_size > 1000


def test_a_tomogram_that_lacks_a_bscan_is_quarantined_and_the_rest_goes_on(tmp_path: Path) -> None:
    phantoms.write_oct_studies(tmp_path / "oct" / "broken", 1, seed=1, without=(7,))
    phantoms.write_oct_studies(tmp_path / "oct" / "whole", 1)
    manifest = take(tmp_path / "oct")
    assert len(manifest) == 2
    entries = quarantine.read(manifest.folder)
    assert [entry.code for entry in entries] == ["geometry", "geometry"]
    assert entries[0].reason == (
        "slice gaps range from 0.25 to 0.50 mm; expected equal gaps (tolerance 0.0625 mm): are slices missing? "
        "geometry=resample interpolates them at even steps"
    )


def test_frames_of_both_eyes_in_one_tomogram_are_quarantined(tmp_path: Path) -> None:
    phantoms.write_oct_studies(tmp_path / "oct", 2)
    path = sorted(tmp_path.rglob("OCT000-right.dcm"))[0]
    dataset = dcmread(path)
    del dataset.ImageLaterality
    (shared,) = dataset.SharedFunctionalGroupsSequence
    (anatomy,) = shared.FrameAnatomySequence
    del shared.FrameAnatomySequence
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        anatomy.FrameLaterality = "L" if number == 5 else "R"
        group.FrameAnatomySequence = [deepcopy(anatomy)]
    dataset.save_as(path.with_name("mixed.dcm"))
    path.unlink()
    manifest = take(tmp_path / "oct")
    (entry,) = quarantine.read(manifest.folder)
    assert (len(manifest), entry.code) == (3, "laterality")
    assert entry.reason.startswith("(0020,9072) FrameLaterality names right and left; expected a volume of one eye")


def test_stacks_of_bscans_become_volumes_with_layers(tmp_path: Path) -> None:
    phantoms.write_oct_stacks(tmp_path / "stacks", 4)
    lost = tmp_path / "stacks" / "images" / "eye003_left" / "bscan_004.png"
    lost.unlink()
    (tmp_path / "stacks" / "labels" / "eye003_left" / "bscan_004.png").unlink()
    stacks = {"spacing_mm": list(tomogram.SPACING_MM)}
    asked = {"modality": "OPT", "stacks": stacks}
    manifest = take(tmp_path / "stacks", scanning=asked, labeling={"mask_classes": phantoms.OCT_LAYERS})
    assert [row.attributes["laterality"] for row in manifest].count("right") == 2
    assert all(row.mask is not None and row.kind == "volume" for row in manifest)
    (entry,) = quarantine.read(manifest.folder)
    assert "numbered 1 to 16, and 1 of them is missing (4)" in entry.reason
    row = manifest.rows[0]
    assert row.mask is not None
    assert manifest.store.get(row.mask).shape == row.shape[1:]
    assert np.unique(manifest.store.get(row.mask)).max() <= 4


SMALL = {"name": "vit", "width": 24, "depth": 2, "heads": 2}
QUIET: dict[str, Any] = {"tracking": {"enabled": False}}


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 4 volumes of B-scans with their layers."""
    root = tmp_path_factory.mktemp("oct")
    phantoms.write_oct_stacks(root / "stacks", 4)
    stacks = {"spacing_mm": list(tomogram.SPACING_MM)}
    splits = {"val": 0.25, "test": 0.25}
    layers = phantoms.OCT_LAYERS
    asked = {"modality": "OPT", "stacks": stacks}
    return take(root / "stacks", scanning=asked, labeling={"mask_classes": layers}, splits=splits).folder


@pytest.mark.parametrize("neighbors", [None, 0, 1], ids=["3D", "2D", "2.5D"])
def test_volumes_bscans_and_bscans_with_neighbors_pass_through_all_commands(
    layered: Path, tmp_path: Path, neighbors: int | None
) -> None:
    """From training to a mask on the volume's grid, and NIfTI of a new stack."""
    by_slice: dict[str, Any] = {
        "slices": {"planes": ["acquired"], "neighbors": neighbors},
        "preprocess": {"kind": "image", "channels": 2 * (neighbors or 0) + 1, "intensity": {"method": "range"}},
        "backbone": SMALL | {"patch_size": 8},
        "crop": [64, 96],
    }
    whole = {
        "preprocess": {"kind": "volume", "intensity": {"method": "range"}},
        "backbone": SMALL | {"patch_size": [8, 8, 4]},
        "crop": [32, 32, 16],
    }
    head = {"name": "dense", "channels": 8, "num_depths": 2}
    short = {"peft": "full", "head": head, "trainer": {"epochs": 1, "steps_per_epoch": 2}, "loader": {"batch_size": 2}}
    model, report = tmp_path / "model", tmp_path / "report"
    finetune(dataset=layered, output=model, **(whole if neighbors is None else by_slice), **short, **QUIET)
    evaluate(checkpoint=model, dataset=layered, output=report, resamples=100, cases=1, nsd_tolerance_mm=0.02, **QUIET)
    assert "dice" in json.loads((report / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    phantoms.write_oct_stacks(tmp_path / "new", 1, seed=9)
    stacks = {"spacing_mm": list(tomogram.SPACING_MM)}
    predicted = {"source": tmp_path / "new" / "images", "output": tmp_path / "p", "key": tmp_path / "key"}
    predict(checkpoint=model, stacks=stacks, **predicted, **QUIET)
    (mask,) = (tmp_path / "p").rglob("mask*.nii.gz")
    assert nib.load(mask).shape == (COLUMNS, ROWS, FRAMES)


def test_neighbors_that_would_be_averaged_are_refused(layered: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"makes 3 channels, and preprocess\.channels is 1"):
        finetune(
            dataset=layered,
            output=tmp_path / "m",
            slices={"planes": ["acquired"], "neighbors": 1},
            preprocess={"kind": "image", "channels": 1, "intensity": {"method": "range"}},
            backbone=SMALL | {"patch_size": 8},
            **QUIET,
        )
