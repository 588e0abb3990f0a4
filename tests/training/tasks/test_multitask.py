"""Several labels with tasks of their own through fine-tuning, evaluation and prediction, on tiny images."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from medvit.artifacts import ADAPTER, Checkpoint
from medvit.backbones.vit import VitConfig
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.samples import load
from medvit.errors import ConfigError, DataError
from medvit.evaluation.report.page import read_table
from medvit.heads.attention import AttentionConfig
from medvit.heads.linear import LinearConfig
from medvit.inference.predictor import Predictor, numbers_of
from medvit.inference.study_job import findings_of
from medvit.models.image import Model
from medvit.records import Row
from medvit.tasks import LossOptions, image_task
from medvit.tasks.multitask import TASK as MULTITASK
from medvit.training.ensembles.folds import members_of
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.slide_heads import require_task_of_slides
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from tests.training.ensembles.test_folds import QUICK
from tests.training.test_runs import TINY

OFF = {"enabled": False}
TASKS = {"tone": "classification", "density": "ordinal", "age": "regression"}
FACTS = Facts(
    "d",
    classes={"tone": ("dark", "bright"), "density": ("1", "2", "3"), "age": ("10", "20", "60")},
    positive={"tone": "dark"},
)


def row(number: int, **labels: str) -> Row:
    return Row(f"i-{number}", f"p-{number}", "", "", "", "image", "d", "train", (1, 8, 8), "uint8", "0", labels=labels)


ROWS = [
    row(0, tone="dark", density="1", age="10"),
    row(1, tone="bright", density="2", age="20"),
    row(2, tone="bright", density="3", age="60"),
    row(3, tone="dark"),
    row(4, density="2"),
]
TARGET = MULTITASK.target(ROWS, tuple(TASKS), FACTS, tasks=TASKS)


@pytest.fixture(scope="module")
def columns(images, tmp_path_factory):
    """Images with a tone, a density and an age that follow from their brightness; some labels are missing."""
    folder = tmp_path_factory.mktemp("data") / "columns"
    shutil.copytree(images, folder)
    manifest = Manifest.read(folder)
    rows = []
    for number, image in enumerate(manifest):
        mean = float(load(manifest, image).pixels.mean())
        is_bright = mean > 150
        labels = {"tone": ("dark", "bright")[is_bright], "age": f"{mean:.2f}"}
        labels["density"] = str(1 + is_bright + (number in (5, 9)))
        for label, without in {"tone": (1, 3, 10), "density": (3, 4, 11), "age": (2, 3)}.items():
            if number in without:
                del labels[label]
        rows.append(replace(image, labels=labels))
    ages = sorted({image.labels["age"] for image in rows if "age" in image.labels}, key=float)
    facts = replace(manifest.facts, classes=dict(FACTS.classes) | {"age": tuple(ages)}, positive=FACTS.positive)
    replace(manifest, rows=tuple(rows), facts=facts).write()
    return folder


@pytest.fixture(scope="module")
def tuned(columns, tmp_path_factory):
    trainer = {"epochs": 2, "steps_per_epoch": 25, "precision": "32-true"}
    window = {"method": "window", "window_center": 150, "window_width": 300}
    options = QUICK | {"trainer": trainer, "preprocess": {"kind": "image", "intensity": window}}
    output = tmp_path_factory.mktemp("columns") / "model"
    return finetune(dataset=columns, output=output, tasks=TASKS, optim={"lr": 2e-3}, **options)


def test_predictions_are_named_by_label_and_class():
    assert TARGET.classes == ("tone.dark", "tone.bright", "density.1", "density.2", "density.3", "age")
    assert TARGET.spans == {"tone": slice(0, 2), "density": slice(2, 5), "age": slice(5, 6)}
    assert MULTITASK.num_outputs(TARGET) == 2 + 2 + 1


def test_missing_labels_are_unknown_in_the_truth():
    encoded = torch.stack([MULTITASK.encoded(one, TARGET) for one in ROWS])
    nan = torch.nan
    expected = torch.tensor([[0, 0, 10], [1, 1, 20], [1, 2, 60], [0, nan, nan], [nan, 1, nan]])
    torch.testing.assert_close(encoded, expected, equal_nan=True)
    assert [MULTITASK.has_truth(one, TARGET) for one in (ROWS[3], row(9, other="x"))] == [True, False]


def test_the_loss_is_the_weighted_sum_of_the_losses_of_the_images_with_each_label():
    weights = {"tone": 0.5, "age": 2.0}
    target = MULTITASK.target(ROWS, tuple(TASKS), FACTS, tasks=TASKS, weights=weights)
    options = LossOptions(smoothing=0.1, balance="loss")
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    truth = torch.stack([MULTITASK.encoded(one, target) for one in ROWS])
    expected = 0.0
    for part, columns in zip(target.parts, ((0, 1), (2, 3), (4,)), strict=True):
        known = [n for n, one in enumerate(ROWS) if part.target.label in one.labels]
        task, rows = image_task(part.task), [ROWS[n] for n in known]
        own = torch.stack([task.encoded(one, part.target) for one in rows])
        expected += part.weight * task.loss(rows, part.target, options)(logits[known][:, columns], own)
    torch.testing.assert_close(MULTITASK.loss(ROWS, target, options)(logits, truth), expected)


def test_a_missing_label_gives_its_head_no_gradient():
    loss = MULTITASK.loss(ROWS, TARGET, LossOptions())
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss(logits, torch.stack([MULTITASK.encoded(one, TARGET) for one in ROWS])).backward()
    assert (logits.grad[3, 2:] == 0.0).all()
    assert (logits.grad[4, [0, 1, 4]] == 0.0).all()
    assert (logits.grad[3, :2] != 0.0).all()
    assert (logits.grad[2, 2:] != 0.0).all()


def test_a_batch_without_any_image_of_a_label_has_a_finite_loss():
    loss = MULTITASK.loss(ROWS, TARGET, LossOptions())
    logits = torch.ones(1, 5, requires_grad=True)
    value = loss(logits, MULTITASK.encoded(ROWS[3], TARGET)[None])
    value.backward()
    assert torch.isfinite(value)
    assert (logits.grad[0, 2:] == 0.0).all()


def test_a_deferred_balance_reaches_the_losses_of_labels():
    rows = [row(n, tone="dark" if n else "bright") for n in range(8)]
    target = MULTITASK.target(rows, ("tone",), FACTS)
    loss = MULTITASK.loss(rows, target, LossOptions(balance="deferred"))
    truth = torch.stack([MULTITASK.encoded(one, target) for one in rows])
    logits = torch.tensor([[1.0, 0.0]]).repeat(8, 1)
    assert loss(logits, truth, 0.9) > loss(logits, truth, 0.0)


def test_the_score_is_the_mean_over_labels_with_a_weight_and_a_score():
    weights = {"density": 0.0}
    target = MULTITASK.target(ROWS, tuple(TASKS), FACTS, tasks=TASKS, weights=weights)
    truth = np.array([[0, 0, 10], [1, 1, 20], [1, 2, np.nan]])
    found = np.array([[0.9, 0.1, 1, 0, 0, 10], [0.2, 0.8, 1, 0, 0, 20], [0.3, 0.7, 1, 0, 0, 5000]])
    scores = MULTITASK.scores(truth, found, target)
    assert scores == {"mean_score": 1.0, "auroc.tone": 1.0, "kappa_quadratic.density": 0.0, "r2.age": 1.0}
    found[0, 5] = 1e6  # an R2 far below -1 counts as -1
    assert MULTITASK.score(truth, found, target) == 0.0
    truth[:, [0, 2]] = np.nan
    assert np.isnan(MULTITASK.score(truth, found, target))


def test_labels_have_separate_heads_on_one_encoding():
    backbone = VitConfig(**TINY | {"ndim": 2}).build()
    torch.manual_seed(0)
    head = AttentionConfig(num_depths=2).build_for_labels(backbone, [2, 1])
    tokens, calls = backbone.intermediate(torch.randn(3, 1, 16, 16), head.layers), []
    head.heads[0].register_forward_hook(lambda *_: calls.append(0))
    head.heads[1].register_forward_hook(lambda *_: calls.append(1))
    logits = head(tokens, torch.zeros(3, 1, 16, 16))
    assert (logits.shape, calls) == ((3, 3), [0, 1])
    logits[:, 2].sum().backward()
    assert all(not weight.grad.any() for weight in head.heads[0].parameters() if weight.grad is not None)
    assert any(weight.grad.any() for weight in head.heads[1].parameters())
    torch.manual_seed(0)
    alone = LinearConfig().build(backbone, 2).state_dict()
    torch.manual_seed(0)
    first = LinearConfig().build_for_labels(backbone, [2, 1]).heads[0].state_dict()
    assert all(torch.equal(alone[name], first[name]) for name in alone)


@pytest.mark.parametrize(("label", "task"), [("label", "classification"), ("age", "regression")])
def test_training_with_a_second_label_of_weight_0_equals_training_on_the_first_alone(images, tmp_path, label, task):
    folder = shutil.copytree(images, tmp_path / "data")
    manifest = Manifest.read(folder)
    rows = [replace(one, labels=one.labels | {"age": str(n), "grade": str(n % 3)}) for n, one in enumerate(manifest)]
    classes = dict(manifest.facts.classes) | {"age": tuple(map(str, range(12))), "grade": ("0", "1", "2")}
    replace(manifest, rows=tuple(rows), facts=replace(manifest.facts, classes=classes)).write()
    options = QUICK | {"trainer": QUICK["trainer"] | {"epochs": 2}}
    alone = finetune(dataset=folder, output=tmp_path / "alone", label=label, task=task, **options)
    tasks = {label: task, "grade": "ordinal"}
    both = finetune(dataset=folder, output=tmp_path / "both", tasks=tasks, task_weights={"grade": 0}, **options)
    first, second = (Checkpoint.load(one.folder).state for one in (alone, both))
    for name, weight in first.items():
        assert torch.equal(weight, second[name.replace("head.", "head.heads.0.")]), name


def test_a_model_of_labels_is_restored_from_its_checkpoint(tuned, columns):
    stored = Checkpoint.load(tuned.folder)
    assert stored.kind == "multitask"
    assert [(one["label"], one["task"], one["positive"]) for one in stored.model["tasks"]] == [
        ("tone", "classification", "dark"),
        ("density", "ordinal", ""),
        ("age", "regression", ""),
    ]
    ages = [float(one.labels["age"]) for one in Manifest.read(columns).split("train") if "age" in one.labels]
    target = Model.from_checkpoint(stored).config.target
    assert target.parts[2].target.scale.mean == pytest.approx(np.mean(ages))
    assert target == Model.from_checkpoint(tuned).config.target
    assert "Label density: ordinal, weight 1" in (tuned.folder / "model_card.md").read_text()
    assert "auroc.tone" in (tuned.folder / "model_card.md").read_text()


def test_each_label_is_predicted_by_its_own_task(tuned, columns, tmp_path):
    manifest, predictor = Manifest.read(columns), Predictor(Checkpoint.load(tuned.folder), device="cpu")
    for one in manifest.split("val"):
        image = load(manifest, one)
        prediction = predictor(image)
        tone, age = prediction.by_label["tone"], prediction.by_label["age"]
        assert (tone.probabilities[1] > 0.5) == (image.pixels.mean() > 150)
        assert age.value == pytest.approx(float(image.pixels.mean()), abs=35)  # of 100 and 200
        assert prediction.by_label["density"].probabilities.sum() == pytest.approx(1.0)
        findings = findings_of(prediction, image, "e-1")
        assert [finding.label for finding in findings] == [*TARGET.classes[:5], "density", "age"]
        assert (findings[0].probability, findings[6].value) == (tone.probabilities[0], age.value)
        assert findings[5].value == prediction.by_label["density"].grades["density"]


def test_each_label_is_evaluated_on_the_images_that_have_it(tuned, columns, tmp_path):
    given = {"checkpoint": tuned.folder, "dataset": columns, "split": "train", "resamples": 100}
    report = evaluate(output=tmp_path / "report", tracking=OFF, **given)
    assert report.metrics["auroc.tone"] == 1.0
    assert {"kappa_quadratic.density", "auroc.density.3", "mae.age", "r2.age"} <= set(report.metrics)
    table = read_table(report.folder)
    assert {"truth.tone", "p.tone.dark", "p.density.3", "predicted.density", "predicted.age", "truth.age"} <= set(table)
    known = ~np.isnan(table["truth.age"])
    assert 0 < known.sum() < len(known)
    errors = np.abs(table["predicted.age"] - table["truth.age"])[known]
    assert report.metrics["mae.age"] == pytest.approx(errors.mean())
    stored = json.loads((report.folder / "metrics.json").read_text())
    assert stored["metrics"]["mae.age"]["low"] <= stored["metrics"]["mae.age"]["value"]
    assert stored["facts"]["Positive classes"] == "dark (tone)"
    page = (report.folder / "report.html").read_text()
    assert all(f"{label}: Results" in page for label in TASKS)
    assert dict(report.lines)["AUROC, tone"].startswith("1.000")


def test_two_reports_of_the_same_labels_are_compared_by_label(tuned, columns, tmp_path):
    given = {"checkpoint": tuned.folder, "dataset": columns, "split": "val", "resamples": 100}
    given["tracking"] = OFF
    evaluate(output=tmp_path / "one", **given)
    report = evaluate(output=tmp_path / "two", against=tmp_path / "one", **given)
    differences = json.loads((report.folder / "metrics.json").read_text())["differences"]
    assert differences["mae.age"]["value"] == differences["auroc.tone"]["value"] == 0.0


def test_a_label_of_other_classes_is_not_evaluated(tuned, columns, tmp_path):
    folder = shutil.copytree(columns, tmp_path / "data")
    manifest = Manifest.read(folder)
    classes = dict(manifest.facts.classes) | {"density": ("1", "2", "3", "4")}
    replace(manifest, facts=replace(manifest.facts, classes=classes)).write()
    with pytest.raises(DataError, match=r"predicts density with the classes 1, 2, 3, the dataset has 1, 2, 3, 4"):
        evaluate(checkpoint=tuned.folder, dataset=folder, output=tmp_path / "r", split="val", tracking=OFF)


def test_a_label_that_the_dataset_lacks_is_noted(tuned, columns, tmp_path):
    folder = shutil.copytree(columns, tmp_path / "data")
    manifest = Manifest.read(folder)
    rows = [replace(one, labels={k: v for k, v in one.labels.items() if k != "age"}) for one in manifest]
    classes = {label: names for label, names in manifest.facts.classes.items() if label != "age"}
    replace(manifest, rows=tuple(rows), facts=replace(manifest.facts, classes=classes)).write()
    given = {"checkpoint": tuned.folder, "dataset": folder, "split": "val", "resamples": 100}
    report = evaluate(output=tmp_path / "report", tracking=OFF, seen_patients="keep", **given)
    assert "r2.age" not in report.metrics
    assert "images have no age" in (report.folder / "report.html").read_text()


def test_options_of_a_single_label_are_refused_in_the_evaluation_of_several(tuned, columns, tmp_path):
    given = {"checkpoint": tuned.folder, "split": "val", "tracking": OFF}
    with pytest.raises(ConfigError, match="order is for the classes of a single label, and the model predicts tone, "):
        evaluate(dataset=columns, output=tmp_path / "r", order=("1", "2", "3"), **given)


def test_an_ensemble_of_folds_averages_each_label(columns, tmp_path):
    model = finetune(dataset=columns, output=tmp_path / "model", tasks=TASKS, folds=2, peft="lora", **QUICK)
    assert (model.folder / ADAPTER).is_file()
    scales = [one["mean"] for one in model.model["scales"]]
    assert len(set(scales)) == 2
    manifest, predictor = Manifest.read(columns), Predictor(Checkpoint.load(model.folder), device="cpu")
    image = load(manifest, manifest.rows[0])
    alone = []
    for number, member in enumerate(predictor.model.members):
        assert member.config.scales[0].mean == scales[number]
        predictor.model.active = (number,)
        alone.append(numbers_of(predictor(image)))
    predictor.model.active = (0, 1)
    np.testing.assert_allclose(numbers_of(predictor(image)), np.mean(alone, axis=0), rtol=1e-5)
    given = {"predictions": model.folder / "out_of_fold", "dataset": columns, "resamples": 100}
    report = evaluate(output=tmp_path / "report", tracking=OFF, **given)
    assert len(read_table(report.folder)["predicted.age"]) == 11
    assert np.isfinite(report.metrics["mae.age"])


def test_folds_divide_the_classes_of_every_label(columns):
    manifest = Manifest.read(columns)
    labels = [{"tone": ("dark", "bright")[n % 2], "density": str(1 + n // 2 % 3)} for n in range(24)]
    rows = [
        replace(manifest.rows[0], image_id=f"i-{n}", patient_id=f"p-{n}", labels=one) for n, one in enumerate(labels)
    ]
    manifest = replace(manifest, rows=tuple(rows))
    for member in members_of(2, 2, 0):
        held_out = member.split(manifest, "tone", "density").split("val")
        assert len({image.patient_id for image in held_out}) == 12
        found = {(image.labels["tone"], image.labels["density"]) for image in held_out}
        assert len(found) == 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "multitask"}, "task=multitask with no tasks"),
        ({"task": "ordinal", "tasks": TASKS}, r"task=ordinal with tasks=\{tone, density, age\}"),
        ({"labels": ("a", "b"), "tasks": TASKS}, "labels and tasks are both given"),
        ({"label": "tone", "tasks": TASKS}, "label=tone and tasks are both given"),
        ({"tasks": TASKS, "positive": "dark"}, "positive=dark is for a single label"),
        ({"tasks": TASKS, "balance": "sampler"}, "balance=sampler draws images by their only class"),
        ({"tasks": TASKS, "balance": "logits"}, "balance=logits does not work with ordinal labels in tasks"),
        ({"tasks": TASKS, "mixing": {"mixup": 0.2}}, "mixing.* is only for task=classification"),
        ({"tasks": TASKS, "task_weights": {"grade": 1}}, "task_weights names grade"),
        ({"tasks": {"age": "regression"}, "task_weights": {"age": 0}}, "all task_weights are 0"),
        ({"tasks": {"age": "survival"}}, "tasks.age"),
    ],
)
def test_options_that_contradict_labels_with_tasks_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        FinetuningOptions.parse({"dataset": "data", "output": "out"} | given)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"tone": "classification", "weight": "regression"}, "tasks names weight, a label that no training image has"),
        ({"tone": "ordinal"}, "tone: task=ordinal needs at least three grades"),
        ({"tone": "regression"}, "image i-0 has tone = 'dark'; regression needs a number"),
    ],
)
def test_labels_that_do_not_fit_their_task_are_refused(tasks, message):
    with pytest.raises(DataError, match=message):
        MULTITASK.target(ROWS, tuple(tasks), FACTS, tasks=tasks)


def test_predictions_of_the_same_name_are_refused():
    facts = replace(FACTS, classes={"a": ("b.c", "d"), "a.b": ("c", "e"), "a.d": ("f", "g")})
    rows = [row(0, **{"a": "d", "a.b": "c", "a.d": "f"})]
    for other, name in (("a.b", "a.b.c"), ("a.d", "a.d")):
        with pytest.raises(DataError, match=f"two labels of tasks have predictions or metrics named {name}, "):
            MULTITASK.target(rows, ("a", other), facts)


def test_prompts_of_classes_are_refused_for_several_labels(columns, tmp_path):
    peft = {"name": "vpt", "depth": "deep", "num_prompts": 2}
    tasks = {"tone": "classification", "age": "regression"}
    with pytest.raises(ConfigError, match="head=prompt_cam has prompts for the classes of one label"):
        finetune(dataset=columns, output=tmp_path / "m", tasks=tasks, head={"name": "prompt_cam"}, peft=peft, **QUICK)


def test_whole_slides_are_refused():
    with pytest.raises(ConfigError, match=r"task=multitask, .* whole slides, .* remove task, labels and tasks"):
        require_task_of_slides("multitask")


@pytest.mark.parametrize("given", [{"tasks": TASKS}, {"label": "tone"}])
def test_decoders_are_refused_for_results_of_images(columns, tmp_path, given):
    with pytest.raises(ConfigError, match="head=dense gives a result for each pixel, and task="):
        finetune(dataset=columns, output=tmp_path / "m", head={"name": "dense"}, **given, **QUICK)


def test_reports_without_a_label_are_not_compared(tuned, columns, tmp_path):
    given = {"checkpoint": tuned.folder, "dataset": columns, "split": "val", "resamples": 100}
    evaluate(output=tmp_path / "one", tracking=OFF, **given)
    path = tmp_path / "one" / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["truth.age", "predicted.age"]), path)
    with pytest.raises(DataError, match="age: the two reports have different metrics"):
        evaluate(output=tmp_path / "two", against=tmp_path / "one", tracking=OFF, **given)
