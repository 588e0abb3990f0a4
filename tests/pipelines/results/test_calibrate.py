"""A calibrated checkpoint has the weights of the original, other probabilities, and the same decisions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from medvit.artifacts import Checkpoint, Lineage
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.leakage.seen_patients import seen_patients
from medvit.models.calibration import Calibration
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.predict import predict
from pipelines.results.calibrate import calibrate
from tests.pipelines.short_training import OFF, SHORT, write_dark_and_bright


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Folder, dataset and model: bright and dark images of 160 patients, half of them for calibration."""
    folder = tmp_path_factory.mktemp("calibrating")
    write_dark_and_bright(folder / "source", 160, dark=120, bright=125)
    how = {"labeling": {"from_folders": "folder"}, "splits": {"val": 0.1, "calibration": 0.5, "test": 0.2}}
    dataset = ingest(source=folder / "source", dataset=folder / "dataset", key=folder / "site.key", **how, **OFF).folder
    model = finetune(dataset=dataset, output=folder / "model", positive="bright", **SHORT, **OFF)
    return folder, dataset, model.folder


@pytest.fixture(scope="module")
def calibrated(made: tuple[Path, Path, Path]) -> Checkpoint:
    folder, dataset, model = made
    return calibrate(checkpoint=model, dataset=dataset, output=folder / "calibrated", resamples=100, **OFF)


def table(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = pq.read_table(report / "predictions.parquet").to_pydict()
    return found


def test_the_weights_are_unchanged_and_the_hash_is_another(
    made: tuple[Path, Path, Path], calibrated: Checkpoint
) -> None:
    original, again = Checkpoint.load(made[2]), Checkpoint.load(calibrated.folder)
    assert all((original.state[name] == again.state[name]).all() for name in original.state)
    assert original.hash != again.hash
    assert again.model["calibration"]["method"] == "temperature"
    assert "## Calibration" in (again.folder / "model_card.md").read_text()
    lineages = [Lineage.read(folder) for folder in (original.folder, again.folder)]
    assert lineages[0] is not None
    assert lineages[1] is not None
    assert lineages[0].inputs["dataset"] == lineages[1].inputs["dataset"]


def test_evaluate_and_predict_give_calibrated_probabilities_and_the_same_decisions(
    made: tuple[Path, Path, Path], calibrated: Checkpoint, tmp_path: Path
) -> None:
    folder, dataset, model = made
    before, after = (
        table(evaluate(checkpoint=one, dataset=dataset, output=tmp_path / name, resamples=100, **OFF).folder)
        for name, one in {"before": model, "after": calibrated.folder}.items()
    )
    scores = np.stack([before["p.bright"], before["p.dark"]], axis=1)
    calibration = Calibration.parse(Checkpoint.load(calibrated.folder).model["calibration"])
    expected = calibration.apply("classification", scores)
    assert np.array(after["p.bright"]) == pytest.approx(expected[:, 0], abs=1e-6)
    assert (np.array(after["p.bright"]) >= 0.5).tolist() == (scores[:, 0] >= 0.5).tolist()

    where = {"source": folder / "source", "output": tmp_path / "out", "key": folder / "site.key", "outputs": []}
    found = predict(checkpoint=[calibrated.folder], **where, **OFF)
    lines = csv.DictReader((found.folder / "predictions.csv").open(encoding="utf-8"))
    shown = np.array([float(line["probability"]) for line in lines if line["class"] == "bright"])
    assert np.abs(np.subtract.outer(after["p.bright"], shown)).min(axis=1).max() < 1e-3  # predict rounds


def test_calibration_patients_count_as_seen(made: tuple[Path, Path, Path], calibrated: Checkpoint) -> None:
    manifest = Manifest.read(made[1])
    patients = {row.patient_id for row in manifest if row.split == "calibration"}
    assert len(patients) > 60
    assert not seen_patients(made[2], manifest.split("calibration"))
    assert seen_patients(calibrated.folder, manifest.split("calibration")) == patients
    assert not seen_patients(calibrated.folder, manifest.split("test"))


def test_the_effect_is_reported_before_and_after(calibrated: Checkpoint) -> None:
    numbers = json.loads((calibrated.folder / "calibration.json").read_text())
    assert set(numbers["before"]) == set(numbers["after"]) == {"log_loss", "brier", "ece"}
    assert numbers["calibration"]["patients"] > 60
    assert calibrated.training["calibration"].startswith("temperature ")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_images_that_were_used_before_are_refused(made: tuple[Path, Path, Path], tmp_path: Path, split: str) -> None:
    with pytest.raises(ConfigError, match=rf"trained or selected on the {split} split"):
        calibrate(checkpoint=made[2], dataset=made[1], output=tmp_path / "out", split=split, **OFF)


def test_a_second_calibration_is_refused(made: tuple[Path, Path, Path], calibrated: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is calibrated already"):
        calibrate(checkpoint=calibrated.folder, dataset=made[1], output=tmp_path / "out", **OFF)


def test_a_dataset_without_the_split_is_refused_with_the_option_that_makes_it(
    made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    folder, _, model = made
    how = {"labeling": {"from_folders": "folder"}, "splits": {"val": 0.1, "test": 0.2}}
    other = ingest(source=folder / "source", dataset=tmp_path / "other", key=tmp_path / "other.key", **how, **OFF)
    with pytest.raises(DataError, match="calibration"):
        calibrate(checkpoint=model, dataset=other.folder, output=tmp_path / "out", **OFF)
