"""Grades through fine-tuning, an ensemble and evaluation, on tiny images."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.samples import load
from medvit.errors import DataError
from medvit.inference.predictor import Predictor
from medvit.tasks import image_task
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.task import assign, choose_preprocess, warn_of_ignored
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from tests.training.ensembles.test_folds import QUICK


@pytest.fixture(scope="module")
def grades(images, tmp_path_factory):
    """Images of three grades."""
    folder = tmp_path_factory.mktemp("data") / "grades"
    shutil.copytree(images, folder)
    manifest = Manifest.read(folder)
    rows = tuple(replace(row, labels={"grade": str(n // 2 % 3)}) for n, row in enumerate(manifest))
    replace(manifest, rows=rows, facts=replace(manifest.facts, classes={"grade": ("0", "1", "2")})).write()
    return folder


@pytest.mark.parametrize("classes", [("dark", "bright", "glaring"), ("0", "1"), ("2", "1", "0"), ("0", "00", "1"), ()])
def test_classes_that_are_not_ascending_grades_are_refused(classes):
    with pytest.raises(DataError, match=r"task=ordinal needs at least three grades.* use task=classification"):
        image_task("ordinal").target((), ("grade",), Facts("d", classes={"grade": classes}))


def test_a_model_of_grades_has_a_logit_less_and_is_evaluated_as_a_classification(grades, tmp_path):
    tuned = finetune(dataset=grades, output=tmp_path / "model", label="grade", task="ordinal", folds=2, **QUICK)
    stored = Checkpoint.load(tuned.folder)
    assert stored.kind == "ordinal"
    assert stored.state["members.0.head.linear.weight"].shape[0] == 2
    manifest, predictor = Manifest.read(grades), Predictor(stored, device="cpu")
    prediction = predictor(load(manifest, manifest.rows[0]))
    assert prediction.classes == ("0", "1", "2")
    assert prediction.probabilities.sum() == pytest.approx(1.0)
    given = {"predictions": tuned.folder / "out_of_fold", "dataset": grades, "resamples": 100}
    report = evaluate(output=tmp_path / "report", tracking={"enabled": False}, **given)
    assert {"kappa_quadratic", "grade_error", "accuracy", "auroc"} <= set(report.metrics)
    assert 0 <= report.metrics["grade_error"] <= 2


def test_validation_is_by_quadratic_kappa(grades):
    manifest = Manifest.read(grades)
    task = assign(manifest, choose_preprocess(manifest), "grade", kind="ordinal")
    assert np.sum(task.odds("sampler")) == pytest.approx(3.0)  # the same for each grade
    room, truth = image_task("ordinal"), np.array([0, 1, 2, 2])
    assert room.metric == "kappa_quadratic"
    assert room.score(truth, np.eye(3)[truth], task.target) == 1.0
    assert room.score(truth, np.eye(3)[2 - truth], task.target) < 0.0


def test_label_smoothing_is_reported_as_ignored(caplog):
    given = FinetuningOptions.parse({"dataset": "data", "output": "out", "smoothing": 0.1, "balance": "off"})
    warn_of_ignored("ordinal", given.set_for_balance, "classification", "ordinal")
    warn_of_ignored("ordinal", given.set_for_classification, "classification")
    assert caplog.messages == [
        "smoothing=0.1 is ignored: it is an option of classification, and this is an ordinal classification"
    ]
