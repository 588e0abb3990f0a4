"""Regression through fine-tuning, ensembles, evaluation and prediction, on the brightness of tiny images."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.samples import load
from medvit.errors import ConfigError, DataError
from medvit.evaluation.paired import paired_differences
from medvit.evaluation.report.page import read_table
from medvit.inference.predictor import Predictor
from medvit.inference.study_job import findings_of
from medvit.metrics import ValueMetric, metrics
from medvit.records import Row
from medvit.tasks import LossOptions, image_task
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.task import assign, choose_preprocess
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from tests.training.ensembles.test_folds import QUICK

REGRESSION = image_task("regression")


def row(number: int, **labels: str) -> Row:
    return Row(f"i-{number}", f"p-{number}", "", "", "", "image", "d", "train", (1, 8, 8), "uint8", "0", labels=labels)


FACTS = Facts("d")
ROWS = [row(0, age="10"), row(1, age="20.0"), row(2, age="6e1")]


@pytest.fixture(scope="module")
def ages(images, tmp_path_factory):
    """Images whose age is their mean pixel, except two without an age."""
    folder = tmp_path_factory.mktemp("data") / "ages"
    shutil.copytree(images, folder)
    manifest = Manifest.read(folder)
    rows = [
        replace(row, labels={} if n in (1, 3) else {"age": f"{load(manifest, row).pixels.mean():.2f}"})
        for n, row in enumerate(manifest)
    ]
    numbers = sorted({row.labels["age"] for row in rows if row.labels}, key=float)
    facts = replace(manifest.facts, classes={"age": tuple(numbers)})
    replace(manifest, rows=tuple(rows), facts=facts).write()
    return folder


@pytest.fixture(scope="module")
def tuned(ages, tmp_path_factory):
    output = tmp_path_factory.mktemp("ages") / "model"
    trainer = {"epochs": 2, "steps_per_epoch": 20, "precision": "32-true"}
    window = {"method": "window", "window_center": 150, "window_width": 300}
    options = QUICK | {"trainer": trainer, "preprocess": {"kind": "image", "intensity": window}}
    return finetune(dataset=ages, output=output, label="age", task="regression", optim={"lr": 2e-3}, **options)


def test_targets_are_standardized_by_the_training_images():
    target = REGRESSION.target(ROWS, ("age",), FACTS)
    assert target.classes == ("age",)
    assert target.scale.mean == pytest.approx(30.0)
    assert target.scale.deviation == pytest.approx(np.std([10, 20, 60]))
    logits = torch.tensor([[-1.5], [0.0], [2.0]])
    predicted = REGRESSION.predictions(logits, target)[:, 0]
    assert predicted.tolist() == pytest.approx([30 - 1.5 * target.scale.deviation, 30, 30 + 2 * target.scale.deviation])


@pytest.mark.parametrize("name", ["smooth_l1", "mse"])
def test_the_loss_of_the_truth_is_0_and_does_not_depend_on_the_unit(name):
    def loss_of(factor: float) -> tuple[float, float]:
        rows = [row(n, age=str(factor * age)) for n, age in enumerate((10, 20, 60))]
        target = REGRESSION.target(rows, ("age",), FACTS)
        loss = REGRESSION.loss(rows, target, LossOptions(regression=name))
        truth = torch.stack([REGRESSION.encoded(row, target) for row in rows])
        right = (truth[:, None] - target.scale.mean) / target.scale.deviation
        return float(loss(right, truth)), float(loss(torch.zeros(3, 1), truth))

    assert loss_of(1.0)[0] == pytest.approx(0.0, abs=1e-9)
    assert loss_of(1.0)[1] > 0.1
    assert loss_of(1000.0) == pytest.approx(loss_of(1.0), abs=1e-6)


@pytest.mark.parametrize("text", ["old", "", "nan", "inf", "1,5"])
def test_a_value_that_is_not_a_number_is_refused_with_column_and_row(text):
    with pytest.raises(DataError, match=rf"image i-7 has age = '{text}'; regression needs a number"):
        REGRESSION.target([*ROWS, row(7, age=text)], ("age",), FACTS)


def test_equal_values_are_refused():
    with pytest.raises(DataError, match="all 2 training images have age = 10"):
        REGRESSION.target([ROWS[0], row(1, age="10.0")], ("age",), FACTS)


def test_images_without_a_value_are_excluded_and_counted(ages, caplog):
    caplog.set_level("INFO", "medvit")
    manifest = Manifest.read(ages)
    task = assign(manifest, choose_preprocess(manifest), "age", kind="regression")
    assert len(task.train) + len(task.val) == 10
    assert "2 of 12 images of the train and val splits have no age and are not used" in caplog.text
    with pytest.raises(DataError, match=r"none of the 12 images .* has a label 'weight' \(labels found: age\)"):
        assign(manifest, choose_preprocess(manifest), "weight", kind="regression")


def test_numbers_are_a_regression_only_if_it_is_requested(ages):
    manifest = Manifest.read(ages)
    assert assign(manifest, choose_preprocess(manifest), "age").kind == "classification"


def test_a_regression_learns_numbers_and_stores_their_scale(tuned, ages):
    manifest = Manifest.read(ages)
    numbers = [float(row.labels["age"]) for row in manifest.split("train") if row.labels]
    stored = Checkpoint.load(tuned.folder)
    assert stored.kind == "regression"
    assert stored.model["scales"] == [{"mean": np.mean(numbers), "deviation": np.std(numbers)}]
    predictor = Predictor(stored, device="cpu")
    for row in manifest.split("val"):
        image = load(manifest, row)
        prediction = predictor(image)
        assert prediction.value == pytest.approx(float(image.pixels.mean()), abs=25)  # of 100 and 200
        (finding,) = findings_of(prediction, image, "e-1")
        assert (finding.label, finding.value, finding.probability) == ("age", prediction.value, None)


def test_a_regression_is_evaluated_with_intervals_and_compared(tuned, ages, tmp_path):
    given = {"checkpoint": tuned.folder, "dataset": ages, "split": "val", "resamples": 100}
    report = evaluate(output=tmp_path / "one", tracking={"enabled": False}, **given)
    keys = {metric.key() for metric in metrics(ValueMetric)}
    assert set(report.metrics) == keys >= {"mae", "rmse", "r2", "mean_difference"}
    table = read_table(tmp_path / "one")
    assert report.metrics["mae"] == pytest.approx(np.abs(table["predicted"] - table["truth"]).mean())
    stored = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert stored["metrics"]["mae"]["low"] <= stored["metrics"]["mae"]["value"] <= stored["metrics"]["mae"]["high"]
    worse = table | {"predicted": table["predicted"] + 1000.0}
    found = paired_differences(table, worse, ("age",), resamples=100, seed=0)
    assert found["mae"].value < 0 < found["r2"].value


def test_models_of_an_ensemble_keep_their_own_scale(ages, tmp_path):
    model = finetune(dataset=ages, output=tmp_path / "model", label="age", task="regression", folds=2, **QUICK)
    scales = [one["mean"] for one in model.model["scales"]]
    assert len(set(scales)) == 2
    manifest, predictor = Manifest.read(ages), Predictor(Checkpoint.load(model.folder), device="cpu")
    image = load(manifest, manifest.rows[0])
    alone = []
    for number, member in enumerate(predictor.model.members):
        assert member.config.scales[0].mean == scales[number]
        predictor.model.active = (number,)
        alone.append(predictor(image).value)
    predictor.model.active = (0, 1)
    assert predictor(image).value == pytest.approx(np.mean(alone))
    given = {"predictions": model.folder / "out_of_fold", "dataset": ages, "resamples": 100}
    report = evaluate(output=tmp_path / "report", tracking={"enabled": False}, **given)
    assert len(read_table(report.folder)["predicted"]) == 10


def test_an_unknown_task_is_refused():
    with pytest.raises(ConfigError, match="task"):
        FinetuningOptions.parse({"dataset": "data", "output": "out", "task": "regresion"})
