"""Curve: the protocol as a stage, on a handful of tiny images."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from medvit.curves.options import CurveOptions
from medvit.curves.trial import Pool, Trial
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from pipelines.curve import CurveConfig, curve
from tests.training.conftest import dataset

FINETUNE = "loader: {batch_size: 2}\ntrainer: {precision: 32-true}\nseed: 5\noutput: elsewhere\n"
PRETRAIN = """
backbone: {ndim: 2, channels: 1, patch_size: 8, width: 16, depth: 1, heads: 2}
preprocess: {kind: image}
objective: {name: mae, decoder_width: 16, decoder_depth: 1, decoder_heads: 2, views: {size: [16, 16]}}
loader: {batch_size: 2}
trainer: {epochs: 1, steps_per_epoch: 2, precision: 32-true}
guard: off
"""
SMALL = {
    "split": "val",
    "labeled": [2, 1],
    "draws": 2,
    "pretrainings": 2,
    "rates": [1e-3, 1e-2],
    "lengths": [1],
    "ways": ["full"],
    "tuning_draws": 1,
    "resamples": 50,
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curve")
    dataset(folder / "dataset", ndim=2)
    (folder / "finetune.yaml").write_text(FINETUNE)
    (folder / "pretrain.yaml").write_text(PRETRAIN)
    return folder


def options(place: Path, **more: object) -> dict[str, object]:
    files = {"dataset": place / "dataset", "finetune": place / "finetune.yaml", "pretrain": place / "pretrain.yaml"}
    return {**files, **SMALL, **more}


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    return curve(**options(place, output=place / "whole")).folder


def test_every_arm_gets_the_same_grid_and_every_draw_its_runs(finished: Path) -> None:
    tried = list(csv.DictReader((finished / "tried.csv").open()))
    grids = {
        arm: sorted((row["amount"], row["way"], row["lr"]) for row in tried if row["arm"] == arm)
        for arm in ("scratch", "pretrained")
    }
    assert grids["scratch"] == grids["pretrained"]
    assert len(grids["scratch"]) == 2  # rates; all patients leave none outside to choose by
    tested = list(csv.DictReader((finished / "runs.csv").open()))
    assert len(tested) == 2 * 2 * (2 + 1 + 1)  # amounts, draws; arms, pixels, equal steps
    equal = {row["steps"] for row in tested if row["arm"] == "scratch-equal-steps"}
    assert equal == {"3"}  # one, and two of pretraining
    lines = json.loads((finished / "curve.json").read_text())
    assert {line["num_patients"] for line in lines} == {2, 8}
    assert all(len(line["scores"]) == 2 for line in lines)
    page = (finished / "curve.html").read_text()
    assert "pretrained on all training images" in page
    assert "Settings that were tried" in page


def test_an_interrupted_curve_ends_as_the_whole_and_repeats_no_run(
    place: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    original = Trial._scores

    def counted(self: Trial, run):
        done.append(run.name)
        if len(done) == 10:
            raise KeyboardInterrupt
        return original(self, run)

    monkeypatch.setattr(Trial, "_scores", counted)
    with pytest.raises(KeyboardInterrupt):
        curve(**options(place, output=place / "cut"))
    before = set(done[:-1])
    resumed = curve(**options(place, output=place / "cut", resume=True)).folder
    assert not before & set(done[10:])
    for name in ("settings.json", "tried.csv", "runs.csv", "curve.json"):
        assert (resumed / name).read_text() == (finished / name).read_text()


def test_settings_are_chosen_before_a_test_label_is_read(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file with the choice is there, and complete, when the first test image is scored."""
    output = tmp_path / "out"
    original = Trial._scores
    seen: list[int] = []

    def watched(self: Trial, run):
        if run.purpose == "test":
            seen.append(len(json.loads((self.folder.parent / "settings.json").read_text())))
        else:
            assert not (self.folder.parent / "settings.json").exists()
        return original(self, run)

    monkeypatch.setattr(Trial, "_scores", watched)
    curve(**options(place, output=output, labeled=[2], draws=1, pretrainings=1))
    assert set(seen) == {2 + 1}


def test_the_test_split_changes_no_choice(place: Path, tmp_path: Path, finished: Path) -> None:
    manifest = Manifest.read(place / "dataset")
    folder = shutil.copytree(place / "dataset", tmp_path / "turned")
    turned = {"dark": "bright", "bright": "dark"}
    rows = [
        replace(row, labels={"label": turned[row.labels["label"]]}) if row.split == "val" else row for row in manifest
    ]
    Manifest(tuple(rows), manifest.facts, folder).write()
    other = curve(**options(place, output=tmp_path / "out", dataset=folder)).folder
    assert (other / "settings.json").read_text() == (finished / "settings.json").read_text()
    assert (other / "runs.csv").read_text() != (finished / "runs.csv").read_text()


def test_training_images_with_the_pixels_of_a_test_image_are_not_used(place: Path) -> None:
    manifest = Manifest.read(place / "dataset")
    test = manifest.split("val").rows[0]
    copy = replace(manifest.split("train").rows[0], sha256=test.sha256)
    mixed = replace(manifest, rows=(*manifest.rows, copy))
    assert copy not in Pool.of(mixed, "label", "val").train.rows
    shared = replace(manifest, rows=(*manifest.rows, replace(test, split="train", image_id="x", sha256="0")))
    with pytest.raises(DataError, match="1 patients are in the splits train and val"):
        Pool.of(shared, "label", "val")


def test_given_weights_that_have_seen_test_patients_are_refused(place: Path, finished: Path, tmp_path: Path) -> None:
    weights = finished / "pretrained" / "seed-0"
    given = options(place, output=tmp_path / "out", split="train", pretrain=None, pretrained=[weights])
    with pytest.raises(DataError, match="was trained on 8 of the patients in the split train"):
        curve(**given)


def test_arms_follow_the_files_and_one_without_weights_is_refused(place: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.yaml"
    given.write_text(FINETUNE + "backbone: {weights: some.pth}\n")

    def arms(**more: object) -> tuple[str, ...]:
        tree = {key: value for key, value in options(place, output=tmp_path, **more).items() if value is not None}
        return CurveConfig.parse(tree).arms_in_force()

    assert arms() == ("scratch", "pretrained")
    assert arms(pretrain=None) == ("scratch",)
    assert arms(finetune=given) == ("scratch", "given", "continued")
    with pytest.raises(ConfigError, match="arms contains given, which needs checkpoint or backbone"):
        arms(arms=["scratch", "given"])
    with pytest.raises(ConfigError, match="pretrain and pretrained are both set"):
        arms(pretrained=["somewhere"])
    with pytest.raises(ConfigError, match="arms lacks scratch, which the effects"):
        arms(arms=["pretrained"])
    with pytest.raises(ConfigError, match="labeled contains only 1"):
        arms(labeled=[1])
    assert issubclass(CurveConfig, CurveOptions)


def test_runs_that_fail_are_reported_and_their_draws_are_left_out_of_the_pairs(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trial._scores

    def failing(self: Trial, run):
        is_cell = run.purpose == "tuning" and run.arm == "pretrained" and run.way == "frozen"
        if is_cell or (run.purpose, run.arm, run.draw, run.amount) == ("test", "pretrained", 1, 2):
            raise DataError("its images are damaged")
        return original(self, run)

    monkeypatch.setattr(Trial, "_scores", failing)
    given = options(place, output=tmp_path / "out", ways=["full", "frozen"], rates=[1e-3])
    finished = curve.run(CurveConfig.parse(given))
    assert len(finished.failures) == 2  # one cell of the grid, one run of the test
    assert all("its images are damaged" in line for line in finished.failures)
    lines = {(line.num_patients, line.arm, line.way): line for line in finished.artifact.lines}
    assert (2, "pretrained", "frozen") not in lines
    assert len(lines[2, "pretrained", "full"].scores) == 1
    assert lines[2, "pretrained", "full"].effect is not None
    assert len(lines[8, "pretrained", "full"].scores) == 2
