"""Leaderboard of backbones: the same protocol for all, its hash, and refusal of a dataset without a val split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.probing import classifiers
from pipelines.results.probe import probe
from tests.models.tuned import backbone_in
from tests.pipelines.results.test_baseline import dataset_in


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
