"""Survival through ingest, fine-tuning, ensembles, evaluation and prediction, on images whose hazard is known."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.samples import load
from medvit.errors import ConfigError, DataError
from medvit.evaluation.paired import paired_differences
from medvit.evaluation.report.page import read_table
from medvit.inference.predictor import Predictor
from medvit.inference.study_job import findings_of
from medvit.metrics import metric_of, metric_title
from medvit.records import Row
from medvit.survival import restricted_means, survival_at, survival_times
from medvit.tasks import LossOptions, image_task
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.task import assign, choose_preprocess
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.predict import predict
from tests.training.ensembles.test_folds import QUICK

SURVIVAL = image_task("survival")
LABELS = ("days", "death")
NUM_PATIENTS = 90
FEW = {"resamples": 100}
QUIET = {"tracking": {"enabled": False}}


def row(number: int, *, patient: int | None = None, **labels: str) -> Row:
    owner = f"p-{number if patient is None else patient}"
    return Row(f"i-{number}", owner, "", "", "", "image", "d", "train", (1, 8, 8), "uint8", "0", labels=labels)


def rate(brightness: float) -> float:
    """Return the hazard per day of a patient, from the brightness of the image: 30 times from 60 to 200."""
    return 0.002 * np.exp(np.log(30.0) * (brightness - 60.0) / 140.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Folder of images with a table of exponential times, independently censored; two images have no outcome."""
    folder, generator = tmp_path_factory.mktemp("source"), np.random.default_rng(0)
    (folder / "images").mkdir()
    lines = []
    for number in range(NUM_PATIENTS):
        brightness = generator.uniform(60.0, 200.0)
        pixels = generator.normal(brightness, 5.0, (16, 16)).clip(0, 255).astype(np.uint8)
        Picture.fromarray(pixels).save(folder / "images" / f"{number}.png")
        event, censoring = generator.exponential(1.0 / rate(brightness)), generator.uniform(20.0, 400.0)
        outcome = (f"{min(event, censoring):.1f}", int(event <= censoring)) if number > 1 else ("", "")
        lines.append((f"{number}.png", f"P{number}", ("train", "val", "test")[number % 3], *outcome))
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "patient", "split", *LABELS), *lines])
    return folder


@pytest.fixture(scope="module")
def followed(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("followed") / "dataset"
    labeling = {"table": source / "labels.csv", "columns": LABELS}
    key = output.parent / "site.key"
    key.write_bytes(bytes(32))  # pseudonyms order the images, so a random key would change what the model learns
    key.chmod(0o600)
    ingest(source=source / "images", dataset=output, labeling=labeling, key=key, **QUIET)
    return output


@pytest.fixture(scope="module")
def tuned(followed, tmp_path_factory):
    output = tmp_path_factory.mktemp("survival") / "model"
    trainer = {"epochs": 2, "steps_per_epoch": 20, "precision": "32-true"}
    window = {"method": "window", "window_center": 130, "window_width": 160}
    options = QUICK | {"trainer": trainer, "preprocess": {"kind": "image", "intensity": window}}
    options |= {"optim": {"lr": 3e-3}, "loader": {"batch_size": 8}, "survival_intervals": 4}
    return finetune(dataset=followed, output=output, label="days", event="death", **options)


def test_intervals_end_at_quantiles_of_the_event_times_of_training_patients():
    rows = [row(n, days=str(10 * n), death="1") for n in range(1, 9)] + [row(9, days="999", death="0")]
    target = image_task("survival").with_intervals(4).target(rows, LABELS, Facts("d"))
    assert target.ends == (20.0, 40.0, 60.0, 80.0)
    assert target.classes == ("days > 20", "days > 40", "days > 60", "days > 80")
    assert SURVIVAL.num_outputs(target) == 4
    copies = [row(n, patient=1, days="10", death="1") for n in range(20, 40)]
    assert SURVIVAL.with_intervals(4).target([*rows, *copies], LABELS, Facts("d")) == target


def test_equal_times_of_events_give_fewer_intervals():
    rows = [row(n, days=("5", "5", "8")[n % 3], death="1") for n in range(9)]
    assert SURVIVAL.target(rows, LABELS, Facts("d")).ends == (5.0, 8.0)
    with pytest.raises(DataError, match="have 1 different days with death = 1; survival needs at least two"):
        SURVIVAL.target(rows[:2], LABELS, Facts("d"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"days": "-3", "death": "1"}, "image i-7 has days = '-3'; survival needs a time of 0 or more"),
        ({"days": "nan", "death": "1"}, "image i-7 has days = 'nan'; survival needs a time of 0 or more"),
        ({"days": "soon", "death": "0"}, "image i-7 has days = 'soon'; survival needs a time"),
        ({"days": "3", "death": "yes"}, "image i-7 has death = 'yes'; survival needs 1 if the event was observed"),
        ({"days": "3", "death": "2"}, "image i-7 has death = '2'; survival needs 1"),
        ({"days": "3"}, "image i-7 has no death, but days = '3'; survival needs both"),
        ({"death": "1"}, "image i-7 has no days, but death = '1'; survival needs both"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_label_and_image(labels, message):
    rows = [row(1, days="1", death="1"), row(2, days="2", death="1")]
    target = SURVIVAL.target(rows, LABELS, Facts("d"))
    with pytest.raises(DataError, match=message):
        SURVIVAL.target([*rows, row(7, **labels)], LABELS, Facts("d"))
    with pytest.raises(DataError, match=message):
        SURVIVAL.has_truth(row(7, **labels), target)
    assert not SURVIVAL.has_truth(row(8, other="x"), target)


def test_the_order_of_the_predicted_times_is_validated():
    rows = [row(n, days=str(n), death="1") for n in range(1, 5)]
    target = SURVIVAL.target(rows, LABELS, Facts("d"))
    truth = torch.stack([SURVIVAL.encoded(one, target) for one in rows])
    logits = torch.linspace(2.0, -2.0, 4)[:, None].expand(4, 4)
    loss = SURVIVAL.loss(rows, target, LossOptions())
    assert float(loss(logits, truth)) < float(loss(logits.flip(0), truth))
    predicted = SURVIVAL.predictions(logits, target)
    assert (predicted.diff(dim=1) < 0.0).all()
    assert SURVIVAL.score(truth.numpy(), predicted.numpy(), target) == 1.0
    assert SURVIVAL.score(truth.numpy(), predicted.flip(0).numpy(), target) == 0.0


def test_images_without_an_outcome_are_excluded_and_counted(followed, caplog):
    caplog.set_level("INFO", "medvit")
    manifest = Manifest.read(followed)
    task = assign(manifest, choose_preprocess(manifest), "days", kind="survival", event="death")
    assert len(task.train) + len(task.val) == 58
    assert "2 of 60 images of the train and val splits have no days or death and are not used" in caplog.text


def test_the_checkpoint_stores_time_intervals_of_the_training_images(tuned, followed):
    stored = Checkpoint.load(tuned.folder)
    train = [one.labels for one in Manifest.read(followed).split("train") if one.labels]
    events = sorted(float(one["days"]) for one in train if one["death"] == "1")
    (ends,) = stored.model["intervals"]
    assert (stored.kind, stored.model["label"], stored.model["event"]) == ("survival", "days", "death")
    assert len(ends) == 4
    assert ends[-1] == events[-1]
    assert set(ends) <= set(events)


def test_a_dark_image_is_predicted_to_survive_longer_at_the_requested_times(tuned, followed):
    manifest = Manifest.read(followed)
    images = [load(manifest, one) for one in manifest.split("test")]
    dark, *_, bright = sorted(images, key=lambda image: image.pixels.mean())
    predictor = Predictor(Checkpoint.load(tuned.folder), "cpu", horizons=(30.0, 60.0))
    longer, shorter = predictor(dark), predictor(bright)
    assert longer.classes == ("days > 30", "days > 60")
    assert (longer.probabilities > shorter.probabilities).all()
    whole = Predictor(Checkpoint.load(tuned.folder), "cpu")(dark)
    times = survival_times(whole.classes)
    assert survival_at(times, whole.probabilities[None], (30.0, 60.0))[0] == pytest.approx(longer.probabilities)
    findings = findings_of(shorter, bright, "e-1")
    last = f"mean days up to {times[-1]:g}"
    assert [finding.label for finding in findings] == ["days > 30", "days > 60", last, "median days"]
    assert findings[0].value is None
    assert findings[2].probability is None
    assert findings[2].value == pytest.approx(shorter.times[last])


def test_the_interval_of_the_c_index_contains_that_of_the_true_hazards(tuned, followed, tmp_path):
    given = {"checkpoint": tuned.folder, "dataset": followed, "seen_patients": "refuse"}
    report = evaluate(output=tmp_path / "one", horizons=(30.0, 90.0), **given, **FEW, **QUIET)
    assert {"c_index", "c_uno", "integrated_brier", "brier_at.30", "auroc_at.90", "observed_expected.30"} <= set(
        report.metrics
    )
    stored = json.loads((tmp_path / "one" / "metrics.json").read_text())
    manifest = Manifest.read(followed).split("test")
    rates = np.array([rate(load(manifest, one).pixels.mean()) for one in manifest])
    first = rates[:, None] / (rates[:, None] + rates)  # of each pair, by exponential times
    truth = np.maximum(first, first.T)[~np.eye(len(rates), dtype=bool)].mean()
    found = stored["metrics"]["c_uno"]
    assert 0.6 < found["low"] <= truth <= found["high"]
    assert "integrated Brier score without images" in " ".join(stored["notes"])
    assert metric_title("brier_at.30") == "Brier score at a time, 30"
    page = (tmp_path / "one" / "report.html").read_text()
    assert "Survival by predicted risk" in page
    assert "Survival at 30" in page

    other = evaluate(output=tmp_path / "two", against=tmp_path / "one", **given, **FEW, **QUIET)
    differences = json.loads((other.folder / "metrics.json").read_text())["differences"]
    assert differences["c_index"]["value"] == differences["integrated_brier"]["value"] == 0.0


def test_models_with_other_times_are_compared(tuned, followed, tmp_path):
    given = {"checkpoint": tuned.folder, "dataset": followed}
    table = read_table(evaluate(output=tmp_path / "one", **given, **FEW, **QUIET).folder)
    names = tuple(name.removeprefix("p.") for name in table if name.startswith("p."))
    curves = np.stack([table[f"p.{name}"] for name in names], axis=1)
    finer = np.linspace(0.0, survival_times(names)[-1], 9)[1:]
    kept = {name: values for name, values in table.items() if not name.startswith("p.")}
    values = survival_at(survival_times(names), curves, finer)
    worse = kept | {f"p.days > {time:.15g}": values[::-1, index] for index, time in enumerate(finer)}
    worse |= {"predicted": restricted_means(tuple(finer), values[::-1])}
    found = paired_differences(table, worse, names, resamples=100, seed=0, horizons=(30.0,))
    assert found["c_index"].value > 0.0 > found["integrated_brier"].value
    with pytest.raises(DataError, match="different true labels"):
        paired_differences(table, worse | {"event": 1.0 - table["event"]}, names, resamples=100, seed=0)


def test_a_label_that_no_image_has_is_named():
    rows = [
        Row("i", "p", "", "", "", "image", "d", "train", (1, 8, 8), "uint8", "0", labels={"days": "3", "death": "1"})
    ]
    with pytest.raises(DataError, match=r"no training image has the label deth \(labels found: days, death\)"):
        image_task("survival").target(rows, ("days", "deth"), Facts("d"))


def test_models_of_folds_keep_their_own_intervals_and_predict_at_common_times(followed, tmp_path):
    given = QUICK | {"label": "days", "event": "death", "folds": 2, "survival_intervals": 3}
    model = finetune(dataset=followed, output=tmp_path / "model", **given)
    first, second = model.model["intervals"]
    assert first != second
    assert survival_times(model.model["classes"]) == tuple(first)
    manifest, predictor = Manifest.read(followed), Predictor(Checkpoint.load(model.folder), "cpu")
    image = load(manifest, manifest.rows[0])
    alone = []
    for number, member in enumerate(predictor.model.members):
        assert member.config.intervals == (tuple((first, second)[number]),)
        predictor.model.active = (number,)
        alone.append(predictor(image).probabilities)
    predictor.model.active = (0, 1)
    assert predictor(image).probabilities == pytest.approx(np.mean(alone, axis=0), abs=1e-6)
    given = {"predictions": model.folder / "out_of_fold", "dataset": followed}
    report = evaluate(output=tmp_path / "report", **given, **FEW, **QUIET)
    assert len(read_table(report.folder)["predicted"]) == 58


def test_predictions_csv_has_a_line_for_each_time(tuned, source, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "3.png").write_bytes((source / "images" / "3.png").read_bytes())
    given = {"checkpoint": tuned.folder, "source": tmp_path / "new", "key": tmp_path / "site.key"}
    found = predict(output=tmp_path / "out", horizons=(30.0,), outputs=(), device="cpu", **given, **QUIET)
    with (found.folder / "predictions.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert lines[0]["class"] == "days > 30"
    assert 0.0 < float(lines[0]["probability"]) < 1.0
    assert lines[1]["class"].startswith("mean days up to ")
    assert float(lines[1]["value"]) > 0.0
    with pytest.raises(ConfigError, match="horizons contains 5000; the last event"):
        predict(output=tmp_path / "other", horizons=(5000.0,), **given, **QUIET)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "survival", "label": "days"}, "task=survival with no event"),
        ({"task": "regression", "event": "death"}, "task=regression with event=death"),
        ({"label": "death", "event": "death"}, "label and event are both death"),
        ({"event": "death", "survival_intervals": 1}, "survival_intervals"),
    ],
)
def test_options_that_contradict_survival_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        FinetuningOptions.parse({"dataset": "data", "output": "out"} | given)
    assert FinetuningOptions.parse({"dataset": "data", "output": "out", "event": "death"}).task == "survival"
    assert metric_of("auroc_at.30.5").task == "survival"
