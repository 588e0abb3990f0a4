"""A checkpoint with prediction sets has the predictions of the original; evaluate and predict give the same sets."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.leakage.seen_patients import seen_patients
from medvit.models.conformal import Conformal
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.predict import predict
from pipelines.results.calibrate import calibrate
from pipelines.results.conformal import conformal
from tests.pipelines.short_training import OFF, SHORT, write_dark_and_bright


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Folder, dataset and model with dropout: bright and dark images of 160 patients, half of them for calibration."""
    folder = tmp_path_factory.mktemp("conformal")
    write_dark_and_bright(folder / "source", 160, dark=120, bright=125)
    how = {"labeling": {"from_folders": "folder"}, "splits": {"val": 0.1, "calibration": 0.5, "test": 0.2}}
    dataset = ingest(source=folder / "source", dataset=folder / "dataset", key=folder / "site.key", **how, **OFF).folder
    head = {"name": "linear", "dropout": 0.3}
    model = finetune(dataset=dataset, output=folder / "model", positive="bright", head=head, **SHORT, **OFF)
    return folder, dataset, model.folder


@pytest.fixture(scope="module")
def with_sets(made: tuple[Path, Path, Path]) -> Checkpoint:
    folder, dataset, model = made
    return conformal(checkpoint=model, dataset=dataset, output=folder / "with-sets", coverage=0.8, **OFF)


def predictions(
    folder: Path, made: tuple[Path, Path, Path], checkpoint: Path, **options: object
) -> list[dict[str, str]]:
    where = {"source": made[0] / "source", "output": folder, "key": made[0] / "site.key", "outputs": []}
    found = predict(checkpoint=[checkpoint], **where, **options, **OFF)
    return list(csv.DictReader((found.folder / "predictions.csv").open(encoding="utf-8")))


def test_evaluate_and_predict_give_the_sets_of_the_stored_limits(
    made: tuple[Path, Path, Path], with_sets: Checkpoint, tmp_path: Path
) -> None:
    _, dataset, model = made
    report = evaluate(checkpoint=with_sets.folder, dataset=dataset, output=tmp_path / "report", resamples=100, **OFF)
    table = pq.read_table(report.folder / "predictions.parquet").to_pydict()
    probabilities = np.stack([table["p.bright"], table["p.dark"]], axis=1)
    again = Conformal.parse(Checkpoint.load(with_sets.folder).model["conformal"])
    sets = again.sets(probabilities)
    assert (sets == np.stack([table["in_set.bright"], table["in_set.dark"]], axis=1)).all()

    lines = predictions(tmp_path / "out", made, with_sets.folder)
    before = predictions(tmp_path / "before", made, model)
    assert [line["probability"] for line in lines] == [line["probability"] for line in before]
    assert {line["in_set"] for line in before} == {""}
    shown = [line for line in lines if line["class"] == "bright"]
    assert {line["coverage"] for line in shown} == {"0.8"}
    scores = np.array([float(line["probability"]) for line in shown])
    places = np.abs(np.subtract.outer(probabilities[:, 0], scores)).argmin(axis=1)
    assert [shown[place]["in_set"] == "yes" for place in places] == sets[:, 0].tolist()

    numbers = json.loads((report.folder / "metrics.json").read_text())
    whole = numbers["prediction_sets"]["coverage"][0]
    is_covered = sets[np.arange(len(sets)), np.array(table["truth"], dtype=int)]
    assert whole["coverage"]["value"] == pytest.approx(is_covered.mean())
    assert whole["size"]["value"] == pytest.approx(sets.sum(axis=1).mean())
    kept = numbers["abstention"]["curves"][0]["values"]["1"]["value"]
    assert kept == pytest.approx(numbers["metrics"]["accuracy"]["value"])
    page = (report.folder / "report.html").read_text()
    assert "Prediction sets" in page
    assert "Abstention" in page


def test_the_patients_of_the_limits_count_as_seen(made: tuple[Path, Path, Path], with_sets: Checkpoint) -> None:
    part = Manifest.read(made[1]).split("calibration")
    assert seen_patients(with_sets.folder, part) == {row.patient_id for row in part}
    assert with_sets.model["conformal"]["patients"] == [len({row.patient_id for row in part})]
    assert "## Prediction sets" in (with_sets.folder / "model_card.md").read_text()
    assert json.loads((with_sets.folder / "conformal.json").read_text())["conformal"] == with_sets.model["conformal"]


def test_limits_of_patients_that_were_used_before_are_refused(
    made: tuple[Path, Path, Path], with_sets: Checkpoint, tmp_path: Path
) -> None:
    _, dataset, model = made
    how = {"dataset": dataset, "output": tmp_path / "out", **OFF}
    with pytest.raises(ConfigError, match="trained or selected on the val split"):
        conformal(checkpoint=model, split="val", **how)
    with pytest.raises(ConfigError, match="has prediction sets already"):
        conformal(checkpoint=with_sets.folder, **how)
    with pytest.raises(ConfigError, match="has prediction sets, which belong to its probabilities"):
        calibrate(checkpoint=with_sets.folder, **how)
    calibrated = calibrate(checkpoint=model, dataset=dataset, output=tmp_path / "calibrated", resamples=100, **OFF)
    with pytest.raises(ConfigError, match="were calibrated on the same patients"):
        conformal(checkpoint=calibrated.folder, **how)


def test_a_coverage_that_needs_more_patients_and_a_method_of_another_task_are_refused(
    made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    how = {"checkpoint": made[2], "dataset": made[1], "output": tmp_path / "out", **OFF}
    with pytest.raises(DataError, match=r"coverage=0\.99 needs at least 99 calibration patients; found \d+"):
        conformal(coverage=0.99, **how)
    with pytest.raises(ConfigError, match="method=residual is not for a model of the task classification"):
        conformal(method="residual", **how)


def test_passes_with_dropout_change_no_probability_and_are_the_same_again(
    made: tuple[Path, Path, Path], with_sets: Checkpoint, tmp_path: Path
) -> None:
    plain = predictions(tmp_path / "plain", made, with_sets.folder)
    passes, again = (predictions(tmp_path / name, made, with_sets.folder, mc_dropout=5) for name in ("one", "two"))
    assert passes == again
    own = ("entropy", "mutual_information")
    assert [{**line, **dict.fromkeys(own, "")} for line in passes] == plain
    assert all(float(line["entropy"]) > float(line["mutual_information"]) > 0.0 for line in passes)


def test_passes_of_a_model_without_dropout_are_refused(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model = finetune(dataset=made[1], output=tmp_path / "model", positive="bright", **SHORT, **OFF)
    with pytest.raises(ConfigError, match="mc_dropout=5, but the model has no dropout"):
        predictions(tmp_path / "out", made, model.folder, mc_dropout=5)
    with pytest.raises(ConfigError, match="at least 2 passes"):
        predictions(tmp_path / "out", made, made[2], mc_dropout=1)
