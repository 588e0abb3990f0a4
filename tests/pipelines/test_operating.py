"""From a wished sensitivity to the calls of new studies: evaluate chooses the point, predict applies it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from medvit.artifacts import Checkpoint, Report
from medvit.errors import ConfigError
from pipelines.__main__ import main
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.predict import predict
from tests.pipelines.short_training import OFF, SHORT, write_dark_and_bright


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Source, dataset and model: bright and dark images of 120 patients, most of them in the val and test splits."""
    folder = tmp_path_factory.mktemp("operating")
    write_dark_and_bright(folder / "source", 120, dark=110, bright=130)
    key = folder / "site.key"
    how = {"labeling": {"from_folders": "folder"}, "splits": {"val": 0.4, "test": 0.4}}
    dataset = ingest(source=folder / "source", dataset=folder / "dataset", key=key, **how, **OFF).folder
    model = finetune(dataset=dataset, output=folder / "model", positive="bright", **SHORT, **OFF)
    return folder, dataset, model.folder


def evaluated(made: tuple[Path, Path, Path], output: Path, **options: object) -> Report:
    _, dataset, model = made
    return evaluate(checkpoint=model, dataset=dataset, output=output, resamples=100, **options, **OFF)


def test_predict_makes_the_calls_that_evaluate_counted(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    report = evaluated(made, tmp_path / "report", operating={"sensitivity": 0.8, "prevalence": 0.1})
    numbers = json.loads((report.folder / "metrics.json").read_text())["operating_points"]
    (point,) = numbers["points"]
    assert (point["name"], point["classes"]) == ("sensitivity 0.8", ["bright"])
    table = pq.read_table(report.folder / "predictions.parquet").to_pydict()
    is_positive = np.array(table["truth"]) == list(made_classes(made)).index("bright")
    called = np.array(table["p.bright"]) >= point["threshold"]
    assert point["evaluated"]["counts"]["found"] == int((called & is_positive).sum())
    assert point["evaluated"]["counts"]["false_alarms"] == int((called & ~is_positive).sum())
    assert point["val"]["rates"]["sensitivity"]["value"] >= 0.8
    assert "per 1,000 images at a prevalence of 10 %" in (report.folder / "report.html").read_text()

    folder, _, model = made
    where = {"source": folder / "source", "output": tmp_path / "out", "key": folder / "site.key", "outputs": []}
    found = predict(checkpoint=[model], operating_points=[report.folder], **where, **OFF)
    lines = list(csv.DictReader((found.folder / "predictions.csv").open(encoding="utf-8")))
    calls = [line for line in lines if line["operating_point"]]
    assert len(calls) == 120
    assert {line["call"] for line in calls} == {"positive", "negative"}
    scores = {line["series"]: line["probability"] for line in lines if line["class"] == "bright" and not line["call"]}
    for line in calls:
        assert float(line["probability"]) == pytest.approx(float(scores[line["series"]]), rel=1e-5)
        assert (line["call"] == "positive") == (float(line["probability"]) >= float(line["threshold"]))
    inputs = json.loads((found.folder / "lineage.json").read_text())["inputs"]
    assert "operating_points.checkpoint" in inputs


def made_classes(made: tuple[Path, Path, Path]) -> list[str]:
    classes: list[str] = Checkpoint.load(made[2]).model["classes"]
    return classes


def test_a_point_without_enough_validation_patients_leaves_the_rest_of_the_report(
    made: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [f"checkpoint={made[2]}", f"dataset={made[1]}", f"output={tmp_path / 'report'}", "resamples=100"]
    assert main(["evaluate", *keys, "operating.sensitivity=0.99", "tracking.enabled=false"]) == 3
    assert "operating point not chosen: bright: sensitivity 0.99" in capsys.readouterr().err
    numbers = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert numbers["operating_points"]["points"] == []
    assert "needs at least 100 positive patients" in numbers["operating_points"]["not_chosen"][0]
    assert "auroc" in numbers["metrics"]


def test_points_are_not_evaluated_on_the_images_they_were_chosen_on(
    made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot be evaluated on the same images"):
        evaluated(made, tmp_path / "report", operating={"sensitivity": 0.8}, split="val")


def test_points_of_a_report_are_applied_to_another_split(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    first = evaluated(made, tmp_path / "first", operating={"sensitivity": 0.8})
    second = evaluated(made, tmp_path / "second", operating={"report": first.folder}, split="val")
    one, other = (json.loads((r.folder / "metrics.json").read_text())["operating_points"] for r in (first, second))
    assert one["points"][0]["threshold"] == other["points"][0]["threshold"]
    assert one["points"][0]["val"]["counts"] == other["points"][0]["evaluated"]["counts"]
