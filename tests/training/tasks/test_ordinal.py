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
from medvit.evaluation.aggregation import LEVELS, answers, breakdowns
from medvit.evaluation.paired import compare
from medvit.evaluation.report.page import read_table
from medvit.evaluation.report.plots import confusion_figure
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.inference.predictor import Predictor, prediction_of
from medvit.inference.study_job import findings_of
from medvit.metrics.confusion import median_grade
from medvit.records import Row
from medvit.tasks import LabelTarget, Target, image_task
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.task import assign, choose_preprocess, warn_of_ignored
from medvit.types import Image
from medvit.writers.preview import _legend
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
    assert prediction.grades == {"grade": int(median_grade(prediction.probabilities[None])[0])}
    given = {"predictions": tuned.folder / "out_of_fold", "dataset": grades, "resamples": 100}
    report = evaluate(output=tmp_path / "report", tracking={"enabled": False}, **given)
    table = read_table(report.folder)
    found = median_grade(np.stack([table[f"p.{name}"] for name in "012"], axis=1))
    assert table["predicted"].tolist() == found.tolist()
    assert report.metrics["accuracy"] == pytest.approx((found == table["truth"]).mean())
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


def test_a_message_on_a_number_with_many_values_lists_only_some():
    ages = tuple(f"{age}.5" for age in range(30, 80))
    with pytest.raises(DataError, match=r"age has 30\.5, .*, 41\.5, \.\.\. \(50 in all\): use"):
        image_task("ordinal").target((), ("age",), Facts("d", classes={"age": ages}))


# The most probable grade is 0, the median is 1.
BETWEEN = np.array([0.4, 0.3, 0.3])
TARGET = Target("grade", ("0", "1", "2"))


def test_validation_and_evaluation_are_by_the_median_grade():
    truth = np.array([0, 1, 2])
    probabilities = np.stack([np.array([0.9, 0.1, 0.0]), BETWEEN, np.array([0.0, 0.1, 0.9])])
    assert image_task("ordinal").score(truth, probabilities, TARGET) == 1.0
    rows = [Row(f"i{n}", f"p{n}", "", "", "", "image", "d", "test", (1, 8, 8), "uint8", "0") for n in range(3)]
    given = {"resamples": 100, "seed": 0}
    graded = evaluate_classes(rows, truth, probabilities, TARGET.classes, is_graded=True, **given)
    plain = evaluate_classes(rows, truth, probabilities, TARGET.classes, **given)
    for key, best in {"kappa_quadratic": 1.0, "accuracy": 1.0, "grade_error": 0.0}.items():
        assert graded.metrics[key].value == best
        assert plain.metrics[key].value != best
    assert [text.get_text() for text in confusion_figure(graded).axes[0].texts] == list("100010001")
    levels = breakdowns(rows, answers(rows, truth, probabilities), TARGET.classes, LEVELS, is_graded=True, **given)
    assert [line.metrics["accuracy"].value for line in levels[0].lines] == [1.0] * len(LEVELS)
    differences = compare(graded, plain.table, **given)  # each by its own rule
    assert differences["accuracy"].value == pytest.approx(1 / 3)
    assert differences["auroc"].value == 0.0


def test_a_prediction_of_grades_states_the_median_grade(tmp_path):
    prediction = prediction_of("ordinal", TARGET, BETWEEN)
    image = Image(np.zeros((1, 8, 8), dtype=np.uint8), "image")
    findings = findings_of(prediction, image, "e-1")
    assert [(one.label, one.probability, one.value) for one in findings] == [
        ("0", 0.4, None),
        ("1", 0.3, None),
        ("2", 0.3, None),
        ("grade", None, 1),
    ]
    parts = (LabelTarget("regression", Target("age", ("age",))), LabelTarget("ordinal", TARGET))
    both = prediction_of(
        "multitask", Target("", ("age", "grade.0", "grade.1", "grade.2"), parts=parts), np.append(61.0, BETWEEN)
    )
    assert [one.label for one in findings_of(both, image, "e-1")] == ["age", "grade.0", "grade.1", "grade.2", "grade"]
    assert [text for text, _ in _legend(both)] == [
        "age 61",
        "grade 1",
        "grade: 0 0.40",
        "grade: 1 0.30",
        "grade: 2 0.30",
    ]


def test_label_smoothing_is_reported_as_ignored(caplog):
    given = FinetuningOptions.parse({"dataset": "data", "output": "out", "smoothing": 0.1, "balance": "off"})
    warn_of_ignored("ordinal", given.set_for_balance, "classification", "ordinal")
    warn_of_ignored("ordinal", given.set_for_classification, "classification")
    assert caplog.messages == [
        "smoothing=0.1 is ignored: it is an option of classification, and this is an ordinal classification"
    ]
