"""Baselines of several labels: each label is predicted from the images that have it, beside a model in its report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medvit.artifacts import METRICS
from medvit.baselines.stored import BaselineFolder
from medvit.dataset.manifest import Facts, Manifest
from medvit.errors import MedvitError
from medvit.records import Row
from pipelines.evaluate import evaluate
from pipelines.results.baseline import baseline
from tests.models.tuned import backbone_in, tuned_in
from tests.pipelines.results.test_baseline import metrics_in

CLASSES = {"bright_left": ("no", "yes"), "effusion": ("absent", "present")}
NUMBER = 150


def dataset_in(folder: Path, *, seed: int = 0) -> Manifest:
    """Write images whose left half shows the first label; the scanner shows the second one, which every third lacks."""
    folder.mkdir()
    positive = {"bright_left": "yes", "effusion": "absent"}  # of the second label, the first class is positive
    manifest = Manifest((), Facts("labels", classes=CLASSES, positive=positive), folder)
    generator, rows = np.random.default_rng(seed), []
    for index in range(NUMBER):
        first, second = (int(one) for one in generator.integers(0, 2, 2))
        pixels = generator.integers(0, 100, (1, 16, 16)).astype(np.int16)
        pixels[..., :8] += np.int16(40 * first)
        labels = {"bright_left": CLASSES["bright_left"][first], "effusion": CLASSES["effusion"][second]}
        if index % 3 == 2:
            del labels["effusion"]
        split = ("train", "train", "test", "val")[index // 3 % 4]
        names = [f"{what}-{index:03}" for what in "ipsq"]
        row = Row(*names, "CR", "image", "d", split, pixels.shape, "int16", manifest.store.put(pixels))
        scanner = "AB"[second if generator.random() < 0.9 else 1 - second]
        rows.append(replace(row, labels=labels, attributes={"model": scanner}))
    written = replace(manifest, rows=tuple(rows))
    written.write()
    return written


def test_each_label_is_predicted_from_what_shows_it(tmp_path: Path) -> None:
    manifest = dataset_in(tmp_path / "dataset")
    given: dict[str, Any] = {"labels": ["bright_left", "effusion"], "resamples": 100}
    made = baseline(dataset=tmp_path / "dataset", output=tmp_path / "found", **given)
    pixels, attributes = (metrics_in(made.folder, name) for name in ("pixels", "attributes"))
    assert pixels["auroc.bright_left"]["value"] > 0.95
    assert attributes["auroc.effusion"]["value"] > 0.75
    assert attributes["auroc.bright_left"]["low"] < 0.5 < attributes["auroc.bright_left"]["high"]
    assert metrics_in(made.folder, "majority")["auroc_macro"]["value"] == 0.5

    stored = {one.name: one.table for one in BaselineFolder.read(made.folder).baselines}
    table = stored["attributes"]
    known = (table["split"] == "test") & ~np.isnan(table["truth.effusion"])
    expected = roc_auc_score(table["truth.effusion"][known], table["p.effusion"][known])
    assert attributes["auroc.effusion"]["value"] == pytest.approx(expected)
    rows = {row.image_id: row for row in manifest}
    truths = [rows[image].labels.get("effusion") for image in table["image_id"]]
    assert [truth == "absent" for truth in truths if truth] == list(
        table["truth.effusion"][[t is not None for t in truths]]
    )
    training = [row.labels["effusion"] for row in manifest if row.split == "train" and "effusion" in row.labels]
    assert set(stored["majority"]["p.effusion"]) == {training.count("absent") / len(training)}


def test_a_report_shows_the_baselines_beside_a_model_of_several_labels(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    pairs = (("no", "yes"), ("present", "absent"))
    options = {"kind": "multilabel", "classes": ("bright_left", "effusion"), "pairs": pairs}
    model = tuned_in(tmp_path / "model", backbone_in(tmp_path / "backbone"), **options)
    folders = {"dataset": tmp_path / "dataset", "checkpoint": model}
    made = baseline(**folders, output=tmp_path / "baselines", resamples=100)
    report = evaluate(**folders, output=tmp_path / "report", baselines=made.folder, resamples=200)
    beside = json.loads((report.folder / METRICS).read_text())["baselines"]["pixels"]
    assert beside["metrics"]["auroc_macro"]["value"] == metrics_in(made.folder, "pixels")["auroc_macro"]["value"]
    difference = report.metrics["auroc_macro"] - beside["metrics"]["auroc_macro"]["value"]
    assert beside["difference"]["auroc_macro"]["value"] == pytest.approx(difference)
    assert "Simple baselines on the same images" in (report.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "multilabel"}, "task=multilabel needs several labels"),
        ({"labels": ["effusion"], "label": "effusion"}, "label and labels are both set"),
        ({"labels": ["effusion"], "task": "ordinal"}, "labels is not used by task=ordinal"),
        ({"labels": ["effusion", "oedema"]}, "labels contains oedema, which has 0 classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_a_reason(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    dataset_in(tmp_path / "dataset")
    with pytest.raises(MedvitError, match=message):
        baseline(dataset=tmp_path / "dataset", output=tmp_path / "found", **options)
