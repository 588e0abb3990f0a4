"""Networks as baselines: kept by what determines them, trained again if that changes, and usable as models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medvit.artifacts import METRICS, Checkpoint
from medvit.baselines.network import NetworkOptions, NetworkPlan, read_key
from medvit.baselines.stored import FACTS, BaselineFolder, network_in, network_title
from medvit.baselines.subject import LabeledSplits
from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.leakage.seen_patients import seen_patients
from pipelines.evaluate import evaluate
from pipelines.results.baseline import baseline
from tests.baselines.planted import brightness_in, discs_in
from tests.models.tuned import backbone_in, tuned_in

QUICK: dict[str, Any] = {"resamples": 100, "tracking": {"enabled": False}}
NETWORK = {"steps": 10, "batch_size": 4, "resnet": "resnet10"}


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Baselines of grades with a network, on images of 16 pixels."""
    folder = tmp_path_factory.mktemp("graded")
    brightness_in(folder / "dataset")
    options = {"label": "grade", "kinds": ["majority", "resnet"], "network": NETWORK}
    return baseline(dataset=folder / "dataset", output=folder / "baselines", **options, **QUICK).folder


def plan(manifest: Manifest, **options: Any) -> NetworkPlan:
    splits = LabeledSplits.of(manifest, "grade")
    return NetworkPlan("resnet", splits, NetworkOptions(**{**NETWORK, **options}), seed=0)


def test_the_key_changes_with_images_labels_and_options_only(graded: Path) -> None:
    manifest = Manifest.read(graded.parent / "dataset")
    key = plan(manifest).key
    assert key == plan(manifest).key == read_key(graded / "resnet")
    first = next(row for row in manifest if row.split == "train")
    changed = [replace(row, labels={**row.labels, "grade": "1"}) if row == first else row for row in manifest]
    changed = [replace(row, labels={**row.labels, "grade": "2"}) if r == 1 else row for r, row in enumerate(changed)]
    others = [plan(replace(manifest, rows=tuple(changed))), plan(manifest, steps=20), replace(plan(manifest), seed=1)]
    assert len({key, *(other.key for other in others)}) == 4


def test_a_network_is_copied_from_earlier_baselines_of_the_same_dataset(graded: Path, tmp_path: Path) -> None:
    options = {"label": "grade", "kinds": ["resnet"], "network": NETWORK, "earlier": graded}
    made = baseline(dataset=graded.parent / "dataset", output=tmp_path / "again", **options, **QUICK)
    assert Checkpoint.load(made.folder / "resnet").hash == Checkpoint.load(graded / "resnet").hash
    tables = [BaselineFolder.read(folder).baselines[-1].table for folder in (graded, made.folder)]
    assert all((tables[0][name] == tables[1][name]).all() for name in tables[0])


def test_a_network_of_another_dataset_is_trained_again(
    graded: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    brightness_in(tmp_path / "dataset", seed=1)
    options = {"label": "grade", "kinds": ["resnet"], "network": NETWORK, "earlier": graded}
    made = baseline(dataset=tmp_path / "dataset", output=tmp_path / "again", **options, **QUICK)
    assert Checkpoint.load(made.folder / "resnet").hash != Checkpoint.load(graded / "resnet").hash
    assert "it is trained again" in caplog.text


def test_the_report_states_the_network_and_its_fixed_number_of_steps(graded: Path) -> None:
    found = json.loads((graded / FACTS).read_text())["baselines"]["resnet"]
    assert found["title"] == "ResNet-10 from scratch"
    assert "for 10 steps of 4; the number of steps was fixed beforehand" in found["note"]


def test_the_network_is_a_model_of_the_train_split_that_evaluate_compares_with_itself(
    graded: Path, tmp_path: Path
) -> None:
    dataset = graded.parent / "dataset"
    network = network_in(graded, Manifest.read(dataset).hash)
    assert network is not None
    assert network_title(graded) == "ResNet-10 from scratch"
    rows = Manifest.read(dataset).rows
    assert seen_patients(network, rows) == {row.patient_id for row in rows if row.split == "train"}
    report = evaluate(dataset=dataset, checkpoint=network, baselines=graded, output=tmp_path / "report", **QUICK)
    beside = json.loads((report.folder / METRICS).read_text())["baselines"]["resnet"]
    assert beside["difference"]["auroc"]["value"] == pytest.approx(0.0, abs=1e-6)


def test_baselines_without_a_network_or_of_another_dataset_are_no_reference(graded: Path, tmp_path: Path) -> None:
    assert network_in(tmp_path, "any") is None
    with pytest.raises(DataError, match="trained on another dataset"):
        network_in(graded, "another")
    dataset = graded.parent / "dataset"
    made = baseline(dataset=dataset, label="grade", kinds=["majority"], output=tmp_path / "made", **QUICK)
    with pytest.raises(DataError, match=r"run medvit baseline with kinds=\[resnet\]"):
        network_in(made.folder, Manifest.read(dataset).hash)


def test_a_small_unet_is_trained_on_label_maps_with_the_preprocessing_of_the_model(tmp_path: Path) -> None:
    discs_in(tmp_path / "dataset")
    options: dict[str, Any] = {"kind": "segmentation", "classes": ("background", "disc"), "head": "dense"}
    preprocess = {"kind": "image", "intensity": {"method": "zscore"}}
    model = tuned_in(tmp_path / "model", backbone_in(tmp_path / "backbone"), **options, preprocess=preprocess)
    options = {"kinds": ["background", "dynunet"], "network": {"steps": 100, "batch_size": 4}}
    made = baseline(dataset=tmp_path / "dataset", checkpoint=model, output=tmp_path / "made", **options, **QUICK)
    found = {one.name: one.table["dice"].mean() for one in BaselineFolder.read(made.folder).baselines}
    assert found["background"] == 0.0
    assert found["dynunet"] > 0.8
    assert Checkpoint.load(made.folder / "dynunet").preprocess == Checkpoint.load(model).preprocess
