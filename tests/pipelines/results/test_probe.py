"""Leaderboard of backbones: the same protocol for all, its hash, and refusal of a dataset without a val split."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvit.baselines.subject import LabeledSplits
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.probing import classifiers
from medvit.probing.protocol import Protocol
from pipelines.results.probe import probe
from tests.baselines.planted import brightness_in
from tests.models.tuned import backbone_in
from tests.pipelines.results.test_baseline import dataset_in
from tests.pipelines.results.test_baseline_labels import dataset_in as labels_in


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try fewer settings."""
    monkeypatch.setattr(classifiers, "STRENGTHS", (0.01, 1.0))
    monkeypatch.setattr(classifiers, "STEPS", 20)


def test_backbones_share_a_protocol_whose_hash_depends_on_images_and_settings_alone(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    backbones = [backbone_in(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    options = {"dataset": tmp_path / "dataset", "resamples": 100}
    both = probe(**options, checkpoints=backbones, output=tmp_path / "both")
    one = probe(**options, checkpoints=backbones[1:], output=tmp_path / "one")
    few = probe(**options, checkpoints=backbones[1:], output=tmp_path / "few", probes=["knn"], layers=False)
    assert both.protocol.hash == one.protocol.hash != few.protocol.hash
    tree = json.loads((both.folder / "probe.json").read_text())
    assert tree["protocol_sha256"] == both.protocol.hash
    assert {(line["backbone"], line["probe"]) for line in tree["results"]} == {
        (name, kind) for name in "ab" for kind in ("knn", "logistic", "linear")
    }
    assert [(line["backbone"], line["layer"]) for line in tree["layers"]] == [(b, n) for b in "ab" for n in (1, 2, 3)]
    alone = {line.probe: line.metrics["auroc"] for line in one.lines}
    assert alone == {line.probe: line.metrics["auroc"] for line in both.lines if line.backbone == "b"}
    page = (both.folder / "probe.html").read_text()
    assert both.protocol.hash in page
    assert not (both.folder / "features").exists()


def test_differences_are_from_the_first_backbone(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    backbones = [backbone_in(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    made = probe(
        dataset=tmp_path / "dataset", checkpoints=backbones, output=tmp_path / "o", probes=["knn"], resamples=100
    )
    first, second = made.lines
    assert first.differences == {}
    difference = second.metrics["auroc"].value - first.metrics["auroc"].value
    assert second.differences["auroc"].value == pytest.approx(difference)


def test_a_dataset_without_val_images_is_refused(tmp_path: Path) -> None:
    manifest = dataset_in(tmp_path / "dataset")
    rows = tuple(replace(row, split="train") if row.split == "val" else row for row in manifest)
    Manifest(rows, manifest.facts, manifest.folder).write()
    with pytest.raises(DataError, match="settings of probes are chosen on it"):
        probe(dataset=tmp_path / "dataset", checkpoints=[backbone_in(tmp_path / "a")], output=tmp_path / "o")


def test_a_folder_given_twice_is_refused(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    backbone = backbone_in(tmp_path / "a")
    with pytest.raises(ConfigError, match="twice"):
        probe(dataset=tmp_path / "dataset", checkpoints=[backbone, backbone], output=tmp_path / "o")


def test_a_number_is_probed_by_neighbors_and_ridge_with_a_hash_of_its_own(tmp_path: Path) -> None:
    brightness_in(tmp_path / "dataset", reference=8, number=120)
    backbones = [backbone_in(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    options = {"dataset": tmp_path / "dataset", "task": "regression", "label": "age", "resamples": 100}
    both = probe(**options, checkpoints=backbones, output=tmp_path / "both")
    one = probe(**options, checkpoints=backbones[1:], output=tmp_path / "one")
    assert both.protocol.hash == one.protocol.hash
    tree = json.loads((both.folder / "probe.json").read_text())
    assert {(line["backbone"], line["probe"]) for line in tree["results"]} == {
        (name, kind) for name in "ab" for kind in ("knn", "ridge")
    }
    assert [(line["backbone"], line["layer"]) for line in tree["layers"]] == [(b, n) for b in "ab" for n in (1, 2, 3)]
    scores = [line["metrics"]["r2"]["value"] for line in tree["results"]]
    assert scores == sorted(scores, reverse=True)
    assert max(scores) > 0.8
    first, second = (next(o for o in both.lines if (o.backbone, o.probe) == (name, "ridge")) for name in "ab")
    difference = second.metrics["r2"].value - first.metrics["r2"].value
    assert second.differences["r2"].value == pytest.approx(difference)
    page = (both.folder / "probe.html").read_text()
    assert "R2 on val" in page
    assert "Mean absolute error" in page


def test_grades_are_probed_by_their_median(tmp_path: Path) -> None:
    brightness_in(tmp_path / "dataset")
    made = probe(
        dataset=tmp_path / "dataset",
        task="ordinal",
        label="grade",
        checkpoints=[backbone_in(tmp_path / "a")],
        output=tmp_path / "o",
        probes=["logistic"],
        resamples=100,
    )
    (line,) = made.lines
    shares = np.stack([line.table[f"p.{grade}"] for grade in "012"], axis=1)
    assert line.table["predicted"].tolist() == (shares.cumsum(axis=1) >= 0.5).argmax(axis=1).tolist()
    assert "kappa_quadratic" in line.metrics


def test_hashes_of_classifications_are_those_of_versions_without_other_tasks(tmp_path: Path) -> None:
    manifest = dataset_in(tmp_path / "dataset")
    protocol = Protocol.of(LabeledSplits.of(manifest, "finding"), ["knn"], "class_mean", 0)
    earlier = {key: value for key, value in asdict(protocol).items() if key not in ("task", "settings")}
    assert protocol.hash == hashlib.sha256(json.dumps(earlier, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "regression"}, "task=regression needs a label"),
        ({"task": "regression", "label": "age", "probes": ["linear"]}, "task=regression has knn, ridge; remove linear"),
        ({"label": "grade", "probes": ["ridge"]}, "task=classification has knn, logistic, linear; remove ridge"),
    ],
)
def test_probes_of_another_task_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    brightness_in(tmp_path / "dataset")
    with pytest.raises(ConfigError, match=message):
        probe(dataset=tmp_path / "dataset", checkpoints=[backbone_in(tmp_path / "a")], output=tmp_path / "o", **options)


def layers_in(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "probe.json").read_text())["layers"]
    return found


def test_several_labels_are_those_of_single_probes_on_the_images_that_have_them(tmp_path: Path) -> None:
    manifest = labels_in(tmp_path / "dataset")
    options = {"checkpoints": [backbone_in(tmp_path / "a")], "dataset": tmp_path / "dataset", "resamples": 100}
    both = probe(**options, output=tmp_path / "both", labels=["bright_left", "effusion"])
    assert both.protocol.label == "bright_left, effusion"
    layers = []
    for label in ("bright_left", "effusion"):
        single = probe(**options, output=tmp_path / label, label=label)
        layers.append([layer["test"] for layer in layers_in(single.folder)])
        known = [label in row.labels for row in manifest if row.split == "test"]
        for mine, own in zip(both.lines, single.lines, strict=True):
            if (label, mine.probe) == ("effusion", "linear"):  # begins with other weights: its first class is positive
                continue
            assert mine.metrics[f"auroc.{label}"].value == pytest.approx(own.metrics["auroc"].value)
            positive = manifest.facts.positive[label]
            expected = own.table[f"p.{positive}"]
            np.testing.assert_allclose(mine.table[f"p.{label}"][known], expected, rtol=1e-6)
    line = both.lines[0]
    means = np.mean([line.metrics[f"auroc.{label}"].value for label in ("bright_left", "effusion")])
    assert line.metrics["auroc_macro"].value == pytest.approx(means)
    assert [layer["test"] for layer in layers_in(both.folder)] == pytest.approx(np.mean(layers, axis=0))


def test_options_of_labels_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    labels_in(tmp_path / "dataset")
    options = {"checkpoints": [backbone_in(tmp_path / "a")], "dataset": tmp_path / "dataset", "output": tmp_path / "o"}
    with pytest.raises(ConfigError, match="task=multilabel needs several labels"):
        probe(**options, task="multilabel")
    with pytest.raises(ConfigError, match="label and labels are both set"):
        probe(**options, label="effusion", labels=["effusion"])
    with pytest.raises(ConfigError, match=r"probes has ridge, but task=multilabel has knn, logistic, linear"):
        probe(**options, labels=["effusion", "bright_left"], probes=["ridge"])
