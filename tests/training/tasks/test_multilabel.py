"""Several labels through fine-tuning, an ensemble, evaluation and prediction, on tiny images that lack some of them."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.samples import load
from medvit.errors import ConfigError, DataError
from medvit.evaluation.paired import paired_differences
from medvit.evaluation.report.page import read_table
from medvit.evaluation.tasks.multilabel import multilabel_metrics
from medvit.inference.predictor import Predictor
from medvit.inference.study_job import findings_of
from medvit.metrics.auroc import auroc
from medvit.records import Row
from medvit.tasks import LossOptions, Target, image_task
from medvit.training.finetuning_options import FinetuningOptions
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from tests.training.ensembles.test_folds import QUICK

MULTILABEL = image_task("multilabel")
LABELS = ("edema", "nodule")
FACTS = Facts("d", classes={"edema": ("no", "yes"), "nodule": ("absent", "present")}, positive={"nodule": "absent"})
TARGET = Target("", LABELS, pairs=(("no", "yes"), ("present", "absent")))


def row(number: int, **labels: str) -> Row:
    return Row(f"i-{number}", f"p-{number}", "", "", "", "image", "d", "train", (1, 8, 8), "uint8", "0", labels=labels)


ROWS = [
    row(0, edema="yes", nodule="present"),
    row(1, edema="no"),
    row(2, edema="no", nodule="absent"),
    row(3, nodule="present"),
]


@pytest.fixture(scope="module")
def findings(images, tmp_path_factory):
    """Images with edema if they are bright; two lack this label, and another one has no label at all."""
    folder = tmp_path_factory.mktemp("data") / "findings"
    shutil.copytree(images, folder)
    manifest = Manifest.read(folder)
    rows = []
    for row in manifest:
        number = int(row.image_id.removeprefix("i-"))
        labels = {"nodule": ("absent", "present")[number // 3 % 2]}
        if number not in (2, 3):
            labels["edema"] = "yes" if load(manifest, row).pixels.mean() > 150 else "no"
        rows.append(replace(row, labels={} if number == 1 else labels))
    facts = replace(manifest.facts, classes=FACTS.classes, positive=FACTS.positive)
    replace(manifest, rows=tuple(rows), facts=facts).write()
    return folder


def test_labels_are_their_positive_class_and_missing_ones_are_unknown():
    target = MULTILABEL.target(ROWS, LABELS, FACTS)
    assert target == TARGET
    encoded = torch.stack([MULTILABEL.encoded(row, target) for row in ROWS])
    nan = torch.nan
    expected = torch.tensor([[1, 0], [0, nan], [0, 1], [nan, 0]])
    torch.testing.assert_close(encoded, expected, equal_nan=True)
    assert [MULTILABEL.has_truth(one, target) for one in (ROWS[1], row(9, other="x"))] == [True, False]


def test_missing_labels_do_not_count_in_the_loss():
    loss = MULTILABEL.loss(ROWS, TARGET, LossOptions())
    logits = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    truth = torch.tensor([[1.0, 0.0], [0.0, torch.nan]])
    value = loss(logits, truth)
    known = F.binary_cross_entropy_with_logits(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(value, known)
    value.backward()
    assert logits.grad[1, 1] == 0.0
    assert (logits.grad.flatten()[:3] != 0.0).all()


def test_balanced_positive_images_of_a_label_count_as_much_as_its_negative_ones():
    rows = [row(n, edema="yes" if n == 0 else "no") for n in range(4)]
    target = Target("", ("edema",), pairs=(("no", "yes"),))
    truth = torch.stack([MULTILABEL.encoded(one, target) for one in rows])
    logits = torch.zeros(4, 1, requires_grad=True)
    MULTILABEL.loss(rows, target, LossOptions(balance="loss"))(logits, truth).backward()
    assert float(logits.grad.sum()) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("edema", "view"), r"labels contains view, which has 0 classes \(none\).*labels found: edema, nodule"),
        (("nodule",), "the training images have only the class absent of nodule, which needs present and absent"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        MULTILABEL.target(ROWS[2:3], labels, FACTS)


def test_a_class_that_is_neither_of_the_two_is_refused_with_its_row():
    with pytest.raises(DataError, match="image i-5 has edema = 'maybe'; expected no or yes"):
        MULTILABEL.encoded(row(5, edema="maybe"), TARGET)


def test_metrics_are_of_the_known_labels():
    generator = np.random.default_rng(0)
    truth, found = generator.integers(0, 2, (40, 2)).astype(float), generator.random((40, 2))
    truth[:15, 1] = np.nan
    values = multilabel_metrics(truth, found, LABELS)
    known = ~np.isnan(truth)
    each = [auroc(truth[known[:, n], n] == 1, found[known[:, n], n]) for n in (0, 1)]
    assert [values["auroc.edema"], values["auroc.nodule"]] == pytest.approx(each)
    assert values["auroc_macro"] == pytest.approx(np.mean(each))
    assert values["auroc_micro"] == pytest.approx(auroc(truth[known] == 1, found[known]))
    nothing = multilabel_metrics(truth[:15], found[:15], LABELS)
    assert nothing.keys() == values.keys()
    assert np.isnan([nothing["auroc.nodule"], nothing["accuracy.nodule"], nothing["auroc_macro"]]).all()
    assert np.isfinite([nothing["auroc.edema"], nothing["auroc_micro"]]).all()


def test_labels_are_learned_predicted_and_evaluated(findings, tmp_path):
    given = QUICK | {"optim": {"lr": 2e-3}, "trainer": {"epochs": 2, "steps_per_epoch": 20, "precision": "32-true"}}
    window = {"method": "window", "window_center": 150, "window_width": 300}
    given |= {"preprocess": {"kind": "image", "intensity": window}}
    tuned = finetune(dataset=findings, output=tmp_path / "model", labels=LABELS, **given)
    stored = Checkpoint.load(tuned.folder)
    assert (stored.kind, stored.model["classes"]) == ("multilabel", list(LABELS))
    manifest, predictor = Manifest.read(findings), Predictor(stored, device="cpu")
    for row in manifest.split("val"):
        image = load(manifest, row)
        prediction = predictor(image)
        first, second = findings_of(prediction, image, "e-1")
        assert (first.label, second.label) == LABELS
        assert (first.probability > 0.5) == (image.pixels.mean() > 150)
    given = {"checkpoint": tuned.folder, "dataset": findings, "split": "val", "resamples": 100}
    report = evaluate(output=tmp_path / "report", tracking={"enabled": False}, **given)
    assert report.metrics["auroc.edema"] == 1.0
    assert {"auroc_macro", "auroc_micro", "sensitivity.nodule"} <= set(report.metrics)
    table = read_table(tmp_path / "report")
    assert np.isnan(table["truth.edema"]).any()
    same = paired_differences(table, table, LABELS, resamples=100, seed=0)
    assert same["auroc.edema"].value == 0.0


def test_an_ensemble_of_folds_is_evaluated_on_all_images_with_a_label(findings, tmp_path):
    tuned = finetune(dataset=findings, output=tmp_path / "model", labels=LABELS, folds=2, **QUICK)
    given = {"predictions": tuned.folder / "out_of_fold", "dataset": findings, "resamples": 100}
    report = evaluate(output=tmp_path / "report", tracking={"enabled": False}, **given)
    assert len(read_table(report.folder)["p.edema"]) == 11


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "multilabel"}, "task=multilabel with no labels"),
        ({"task": "ordinal", "labels": LABELS}, "task=ordinal with labels=edema,nodule"),
        ({"labels": ("edema", "edema")}, "labels has a label twice"),
        ({"labels": LABELS, "balance": "sampler"}, "balance=sampler is for images of one class"),
    ],
)
def test_options_that_contradict_several_labels_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        FinetuningOptions.parse({"dataset": "data", "output": "out"} | given)
