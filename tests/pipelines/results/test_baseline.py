"""Baselines of a dataset, and beside a model in its report: a scanner that goes with the class is exposed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from medvit.artifacts import METRICS
from medvit.baselines.stored import FACTS, BaselineFolder
from medvit.dataset.manifest import Facts, Manifest
from medvit.errors import DataError, MedvitError
from medvit.records import Row
from pipelines.evaluate import evaluate
from pipelines.results.baseline import baseline
from tests.baselines.planted import brightness_in, discs_in
from tests.models.tuned import backbone_in, tuned_in

CLASSES = ("normal", "effusion")
NUMBER = 120


def dataset_in(folder: Path, *, seed: int = 0) -> Manifest:
    """Write images of noise whose class shows in the scanner in nine of ten cases, but not in the pixels."""
    folder.mkdir()
    manifest = Manifest((), Facts("scanners", classes={"finding": CLASSES}, positive={"finding": "effusion"}), folder)
    generator, rows = np.random.default_rng(seed), []
    for index in range(NUMBER):
        truth = index % 2
        scanner = "AB"[truth if generator.random() < 0.9 else 1 - truth]
        pixels = generator.integers(0, 100, (1, 16, 16)).astype(np.int16)
        names = [f"{what}-{index:03}" for what in "ipsq"]
        split = ("train", "train", "test")[index // 2 % 3] if index // 2 % 5 else "val"
        row = Row(*names, "CR", "image", "d", split, pixels.shape, "int16", manifest.store.put(pixels))
        rows.append(replace(row, labels={"finding": CLASSES[truth]}, attributes={"model": scanner, "sex": "F"}))
    written = replace(manifest, rows=tuple(rows))
    written.write()
    return written


def metrics_in(folder: Path, name: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((folder / FACTS).read_text())["baselines"][name]["metrics"]
    return found


def test_a_scanner_that_goes_with_the_class_is_exposed_and_pixels_of_noise_are_not(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    made = baseline(dataset=tmp_path / "dataset", output=tmp_path / "found", resamples=200)
    assert metrics_in(made.folder, "attributes")["auroc"]["low"] > 0.7
    pixels = metrics_in(made.folder, "pixels")["auroc"]
    assert pixels["low"] < 0.5 < pixels["high"]
    assert metrics_in(made.folder, "majority")["auroc"]["value"] == 0.5
    read = BaselineFolder.read(made.folder)
    assert [one.name for one in read.baselines] == ["majority", "attributes", "pixels"]  # noise is not a shape


def test_the_regression_on_pixels_is_that_of_plain_scikit_learn(tmp_path: Path) -> None:
    manifest = dataset_in(tmp_path / "dataset")
    made = baseline(dataset=tmp_path / "dataset", output=tmp_path / "found", kinds=["pixels"], resamples=100)
    note = BaselineFolder.read(made.folder).baselines[0].note
    strength = float(note.split("C = ")[1].split(",")[0])

    def features(split: str) -> tuple[np.ndarray, np.ndarray]:
        from scipy.ndimage import zoom

        rows = [row for row in manifest if row.split == split]
        images = [manifest.store.get(row.sha256)[0].astype(np.float32) for row in rows]
        images = [zoom(one, 28 / 16, order=1, grid_mode=True, mode="nearest") for one in images]
        centered = np.stack([(one - one.mean()).ravel() for one in images])
        truth = np.array([CLASSES.index(row.labels["finding"]) for row in rows])
        return centered / np.linalg.norm(centered, axis=1, keepdims=True), truth

    (train, truth), (test, expected) = features("train"), features("test")
    classifier = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    classifier.fit((train - train.mean(axis=0)) / train.std(), truth)
    scores = classifier.predict_proba((test - train.mean(axis=0)) / train.std())[:, 1]
    assert metrics_in(made.folder, "pixels")["auroc"]["value"] == pytest.approx(roc_auc_score(expected, scores))


def test_a_report_shows_the_baselines_beside_the_model(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    model = tuned_in(tmp_path / "model", backbone_in(tmp_path / "backbone"), label="finding")
    folders = {"dataset": tmp_path / "dataset", "checkpoint": model}
    made = baseline(**folders, output=tmp_path / "baselines", resamples=100)
    report = evaluate(**folders, output=tmp_path / "report", baselines=made.folder, resamples=200)
    beside = json.loads((report.folder / METRICS).read_text())["baselines"]["attributes"]
    own = report.metrics["auroc"]
    assert beside["metrics"]["auroc"]["value"] == metrics_in(made.folder, "attributes")["auroc"]["value"]
    assert beside["difference"]["auroc"]["value"] == pytest.approx(own - beside["metrics"]["auroc"]["value"])
    assert beside["difference"]["auroc"]["high"] < 0  # the untrained model is worse than the scanner alone
    page = (report.folder / "report.html").read_text()
    assert "Simple baselines on the same images" in page
    assert "Age, sex and scanner" in page


def test_baselines_of_another_dataset_are_refused(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    dataset_in(tmp_path / "other", seed=1)
    model = tuned_in(tmp_path / "model", backbone_in(tmp_path / "backbone"), label="finding")
    made = baseline(dataset=tmp_path / "other", output=tmp_path / "baselines", kinds=["majority"], resamples=100)
    with pytest.raises(DataError, match="trained on another dataset"):
        evaluate(
            dataset=tmp_path / "dataset",
            checkpoint=model,
            output=tmp_path / "report",
            baselines=made.folder,
            resamples=100,
        )


def test_a_requested_baseline_that_the_dataset_does_not_allow_is_refused(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    with pytest.raises(DataError, match="Shape measures: the images are not shapes"):
        baseline(dataset=tmp_path / "dataset", output=tmp_path / "found", kinds=["shape"])


def test_a_ridge_on_pixels_recovers_a_planted_brightness_and_the_mean_does_not(tmp_path: Path) -> None:
    brightness_in(tmp_path / "dataset")
    options = {"task": "regression", "label": "age", "resamples": 100}
    made = baseline(dataset=tmp_path / "dataset", output=tmp_path / "found", **options)
    assert metrics_in(made.folder, "pixels")["r2"]["value"] > 0.95
    assert metrics_in(made.folder, "pixels")["mae"]["high"] < 3.0  # years, of 60
    for name in ("mean", "median"):
        assert metrics_in(made.folder, name)["r2"]["value"] <= 0.0
    assert BaselineFolder.read(made.folder).task == "regression"


def test_grades_are_predicted_by_their_median_as_by_an_ordinal_model(tmp_path: Path) -> None:
    manifest = brightness_in(tmp_path / "dataset")
    options = {"task": "ordinal", "label": "grade", "kinds": ["majority"], "resamples": 100}
    made = baseline(dataset=tmp_path / "dataset", output=tmp_path / "found", **options)
    table = BaselineFolder.read(made.folder).baselines[0].table
    grades = [int(row.labels["grade"]) for row in manifest if row.split == "train"]
    assert set(table["predicted"]) == {np.sort(grades)[(len(grades) - 1) // 2]}
    assert metrics_in(made.folder, "majority")["kappa_quadratic"]["value"] == 0.0


def test_a_report_shows_the_baselines_beside_a_regression(tmp_path: Path) -> None:
    brightness_in(tmp_path / "dataset")
    scale = ({"mean": 50.0, "deviation": 17.0},)
    options = {"kind": "regression", "classes": ("age",), "label": "age", "scales": scale}
    model = tuned_in(tmp_path / "model", backbone_in(tmp_path / "backbone"), **options)
    folders = {"dataset": tmp_path / "dataset", "checkpoint": model}
    made = baseline(**folders, output=tmp_path / "baselines", resamples=100)
    report = evaluate(**folders, output=tmp_path / "report", baselines=made.folder, resamples=200)
    beside = json.loads((report.folder / METRICS).read_text())["baselines"]["mean"]
    assert beside["metrics"]["mae"]["value"] == pytest.approx(metrics_in(made.folder, "mean")["mae"]["value"])
    difference = report.metrics["mae"] - beside["metrics"]["mae"]["value"]
    assert beside["difference"]["mae"]["value"] == pytest.approx(difference)
    assert "Mean absolute error, model - baseline" in (report.folder / "report.html").read_text()


def test_a_report_shows_the_baselines_beside_a_segmentation(tmp_path: Path) -> None:
    discs_in(tmp_path / "dataset")
    options: dict[str, Any] = {"kind": "segmentation", "classes": ("background", "disc"), "head": "dense"}
    preprocess = {"kind": "image"}
    model = tuned_in(tmp_path / "model", backbone_in(tmp_path / "backbone"), **options, preprocess=preprocess)
    folders = {"dataset": tmp_path / "dataset", "checkpoint": model}
    made = baseline(**folders, output=tmp_path / "baselines", resamples=100)
    read = BaselineFolder.read(made.folder)
    assert [one.name for one in read.baselines] == ["background", "mean_mask", "threshold", "voxels"]
    report = evaluate(**folders, output=tmp_path / "report", baselines=made.folder, resamples=200)
    beside = json.loads((report.folder / METRICS).read_text())["baselines"]["threshold"]
    assert beside["metrics"]["dice"]["value"] > 0.95
    assert beside["difference"]["dice"]["value"] == pytest.approx(
        report.metrics["dice"] - beside["metrics"]["dice"]["value"]
    )
    with pytest.raises(DataError, match="nsd_tolerance_mm=1, the evaluation 2"):
        evaluate(**folders, output=tmp_path / "other", baselines=made.folder, resamples=100, nsd_tolerance_mm=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "segmentation"}, "the train split has no image with a label map"),
        ({"task": "regression"}, "task=regression needs a label"),
        ({"label": "finding", "task": "regression"}, "regression needs a number"),
        ({"label": "finding", "task": "ordinal"}, "task=ordinal needs at least three grades"),
        ({"kinds": ["dynunet"]}, "DynUNet from scratch: not a baseline of a classification, which has majority"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_with_a_reason(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    dataset_in(tmp_path / "dataset")
    with pytest.raises(MedvitError, match=message):
        baseline(dataset=tmp_path / "dataset", output=tmp_path / "found", **options)


def test_a_survival_model_has_no_baselines(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    options = {"kind": "survival", "classes": ("days > 1",), "label": "days", "event": "dead", "intervals": ((1.0,),)}
    model = tuned_in(tmp_path / "model", backbone_in(tmp_path / "backbone"), **options)
    with pytest.raises(MedvitError, match="a survival prediction: a baseline of survival would have to take censoring"):
        baseline(dataset=tmp_path / "dataset", checkpoint=model, output=tmp_path / "found")


@pytest.mark.parametrize("label", ["nothing", "sex"])
def test_a_label_that_the_dataset_lacks_is_refused_with_those_that_it_has(tmp_path: Path, label: str) -> None:
    dataset_in(tmp_path / "dataset")
    with pytest.raises(DataError, match="it has finding: give label=NAME"):
        baseline(dataset=tmp_path / "dataset", output=tmp_path / "found", label=label)
