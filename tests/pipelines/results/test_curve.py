"""Curve: the protocol as a stage, on a handful of tiny images."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from medvit.curves import pretraining
from medvit.curves.options import CurveOptions
from medvit.curves.pool import Pool, PoolOptions
from medvit.curves.trial import Trial
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError, TrainingError
from medvit.leakage.seen_patients import training_patients
from medvit.records import Row
from pipelines.results.curve import CurveConfig, curve
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
    "labeled": [2, "all"],
    "draws": 2,
    "pretrainings": 2,
    "rates": [1e-3, 1e-2],
    "lengths": [1],
    "ways": ["full"],
    "tuning_draws": 1,
    "resamples": 50,
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are trained fastest by one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.cpu_count", lambda: 1)
        yield


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
    images = PoolOptions("label", "val", "image")
    assert copy not in Pool.of(mixed, images).train.rows
    shared = replace(manifest, rows=(*manifest.rows, replace(test, split="train", image_id="x", sha256="0")))
    with pytest.raises(DataError, match="1 patients are in the splits train and val"):
        Pool.of(shared, images)


def test_given_weights_that_have_seen_test_patients_are_refused(place: Path, finished: Path, tmp_path: Path) -> None:
    weights = finished / "pretrained" / "seed-0"
    given = tmp_path / "given.yaml"
    output = options(place, output=tmp_path / "out", split="train", pretrain=None)
    for line in (f"checkpoint: {weights}", f"backbone: {{weights: {weights / 'model.safetensors'}}}"):
        given.write_text(f"{FINETUNE}{line}\n")
        with pytest.raises(DataError, match="was trained on 8 of the patients in the split train"):
            curve(**{**output, "finetune": given})
    with pytest.raises(DataError, match="was trained on 8 of the patients in the split train"):
        curve(**{**output, "pretrained": [weights]})


def test_all_arms_have_the_backbone_and_preprocessing_of_the_checkpoint(
    place: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither file changes the backbone of a single arm, even if each names another one."""
    weights = finished / "pretrained" / "seed-0"
    given, pretrain = tmp_path / "given.yaml", tmp_path / "pretrain.yaml"
    given.write_text(f"{FINETUNE}checkpoint: {weights}\nbackbone: {{width: 32}}\npreprocess: {{size: [24, 24]}}\n")
    pretrain.write_text(PRETRAIN.replace("width: 16, depth", "width: 48, depth") + "peft: full\n")
    built: dict[str, set[str]] = {}
    original = Trial._train

    def watched(self: Trial, run, labeled):
        predictor = original(self, run, labeled)
        backbone = predictor.config.backbone.without_weights()
        built.setdefault(run.arm, set()).add(f"{backbone} {predictor.preprocess}")
        return predictor

    monkeypatch.setattr(Trial, "_train", watched)
    arms = ["scratch", "pretrained", "given", "continued"]
    small = {"labeled": [2], "draws": 1, "pretrainings": 1, "rates": [1e-3], "finetune": given, "pretrain": pretrain}
    made = curve(**options(place, output=tmp_path / "out", arms=arms, **small)).folder
    assert set(built) == {*arms, "scratch-equal-steps"}
    (text,) = set().union(*built.values())
    assert "width=16" in text
    assert "size=(24, 24)" in text
    seen = training_patients(weights)
    assert seen
    assert training_patients(made / "continued" / "seed-0") >= seen
    assert json.loads((made / "lineage.json").read_text())["inputs"].keys() == {"dataset", "checkpoint"}


def test_a_file_of_given_weights_is_recorded_with_the_patients_it_was_trained_on(
    place: Path, finished: Path, tmp_path: Path
) -> None:
    weights, given = finished / "pretrained" / "seed-0", tmp_path / "given.yaml"
    backbone = {"patch_size": 8, "width": 16, "depth": 1, "heads": 2, "weights": str(weights / "model.safetensors")}
    given.write_text(f"{FINETUNE}backbone: {json.dumps(backbone)}\npreprocess: {{kind: image}}\n")
    pretrain = tmp_path / "pretrain.yaml"
    kept = [line for line in PRETRAIN.splitlines() if not line.startswith(("backbone", "preprocess"))]
    pretrain.write_text("\n".join([*kept, "peft: full"]))
    small = {"labeled": [2], "draws": 1, "pretrainings": 1, "rates": [1e-3], "finetune": given, "pretrain": pretrain}
    made = curve(**options(place, output=tmp_path / "out", **small))
    assert {line.arm for line in made.lines} == {"scratch", "given", "continued", "pixels", "scratch-equal-steps"}
    assert json.loads((made.folder / "lineage.json").read_text())["inputs"].keys() == {"dataset", "weights"}
    assert training_patients(made.folder / "continued" / "seed-0") == training_patients(weights)


def test_a_rate_at_which_training_diverges_is_reported_and_not_chosen(place: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.yaml"
    given.write_text(
        f"{FINETUNE}backbone: {{patch_size: 8, width: 16, depth: 1, heads: 2}}\npreprocess: {{kind: image}}\n"
    )
    small = {"finetune": given, "pretrain": None, "labeled": [2], "draws": 1, "rates": [1e-3, 1e30], "lengths": [4]}
    finished = curve.run(configured(place, output=tmp_path / "out", **small))
    (failure,) = finished.failures
    assert "the training diverged with lr1e+30-s4: the " in failure
    assert "failed_step" not in failure  # the file that it would inspect is removed with the run
    (line,) = (line for line in finished.artifact.lines if line.arm == "scratch")
    assert line.settings == "lr0.001-s4"
    assert list(finished.artifact.folder.glob("runs/.*")) == []


def test_files_that_name_different_backbones_and_checkpoints_that_differ_are_refused(
    place: Path, finished: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given.yaml"
    given.write_text(FINETUNE + "backbone: vit\n")
    with pytest.raises(ConfigError, match="name different backbones"):
        curve(**options(place, output=tmp_path / "out", finetune=given))
    weights = finished / "pretrained" / "seed-0"
    other = shutil.copytree(weights, tmp_path / "other")
    text = (other / "preprocess.json").read_text()
    (other / "preprocess.json").write_text(text.replace('"channels": 1', '"channels": 3'))
    with pytest.raises(ConfigError, match="other has another backbone or preprocessing than"):
        curve(**options(place, output=tmp_path / "out", pretrain=None, pretrained=[weights, other]))


def test_pretraining_sees_no_labels(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Row] = []
    original = pretraining.assemble_pretraining

    def watched(config, manifest, *rest, **more):
        seen.extend(manifest)
        return original(config, manifest, *rest, **more)

    monkeypatch.setattr(pretraining, "assemble_pretraining", watched)
    pretrain = tmp_path / "pretrain.yaml"
    pretrain.write_text(PRETRAIN.replace("name: mae", "name: urfound").replace("guard: off", "guard: rollback"))
    with pytest.raises(ConfigError, match="objective=urfound trains on labels, which a curve hides"):
        curve(**options(place, output=tmp_path / "out", pretrain=pretrain, pretrainings=1))
    assert len(seen) == 8
    assert not any(row.labels or row.mask for row in seen)


def test_arms_follow_the_files_and_one_without_weights_is_refused(place: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.yaml"
    given.write_text(FINETUNE + "backbone: {weights: some.pth}\n")

    def arms(**more: object) -> tuple[str, ...]:
        config = configured(place, output=tmp_path, **more)
        config.check()
        return config.arms_in_force()

    assert arms() == ("scratch", "pretrained")
    assert arms(pretrain=None) == ("scratch",)
    assert arms(finetune=given) == ("scratch", "given", "continued")
    with pytest.raises(ConfigError, match="arms contains given, which needs checkpoint or backbone"):
        arms(arms=["scratch", "given"])
    with pytest.raises(ConfigError, match="pretrain and pretrained are both set"):
        arms(pretrained=["somewhere"])
    with pytest.raises(ConfigError, match="arms lacks scratch, which the effects"):
        arms(arms=["pretrained"])
    with pytest.raises(ConfigError, match="labeled contains only all"):
        arms(labeled=["all"])
    with pytest.raises(ConfigError, match="pretrained is set, and none of the arms scratch, given uses it"):
        arms(finetune=given, pretrain=None, pretrained=["somewhere"])
    with pytest.raises(ConfigError, match="rates: the list is empty"):
        arms(rates=[])
    with pytest.raises(ConfigError, match="lengths: 10 is listed twice"):
        arms(lengths=[10, 20, 10])
    for line, key in (("checkpoint: some", "checkpoint"), ("self_distillation: {teacher: some}", "self_distillation")):
        wrong = tmp_path / "wrong.yaml"
        wrong.write_text(f"{PRETRAIN}{line}\n")
        with pytest.raises(ConfigError, match=f"sets {key}"):
            arms(pretrain=wrong)
    assert issubclass(CurveConfig, CurveOptions)


def configured(place: Path, **more: object) -> CurveConfig:
    return CurveConfig.parse({key: value for key, value in options(place, **more).items() if value is not None})


def test_processes_of_the_engine_start_no_others_and_trainings_have_no_time_limit(place: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.yaml"
    given.write_text(FINETUNE.replace("batch_size: 2", "batch_size: 2, num_workers: 3"))
    alone, several = (
        configured(place, output=tmp_path, finetune=given, engine={"num_processes": number}) for number in (1, 2)
    )
    assert alone.task.loader.num_workers == 3
    assert several.task.loader.num_workers == 0
    assert several.task.loader.batch_size == 2
    assert several.engine.item_timeout_s is None


def test_amounts_that_leave_no_patient_to_choose_by_are_refused_before_any_training(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trial, "_scores", None)
    monkeypatch.setattr(pretraining.PretrainArm, "__call__", None)
    for amount, text in ((9, "more than the 8"), (8, "all of the 8")):
        with pytest.raises(ConfigError, match=f"labeled={amount} .*{text} labeled training patients"):
            curve(**options(place, output=tmp_path / "out", labeled=[amount]))
    with pytest.raises(DataError, match=r"with labeled=2, are all of the class (dark|bright), so that scores"):
        curve(**options(place, output=tmp_path / "out", tuning_images=1))


def test_the_pool_has_images_of_the_kind_and_without_the_flags_of_the_files(place: Path) -> None:
    manifest = Manifest.read(place / "dataset")
    rows = [replace(row, flags=("blank",) if row.image_id == "i-1" else ()) for row in manifest]
    flagged = replace(manifest, rows=tuple(rows))
    assert len(Pool.of(flagged, PoolOptions("label", "val", "image", ("blank",))).train) == 7
    with pytest.raises(DataError, match="no rows in the split 'val'"):
        Pool.of(manifest, PoolOptions("label", "val", "volume"))
    slides = replace(manifest, rows=tuple(replace(row, kind="slide") for row in manifest))
    with pytest.raises(ConfigError, match="has labels of whole slides"):
        Pool.of(slides, PoolOptions("label", "val", "image"))


def test_a_segmentation_has_dynunet_as_its_simple_baseline(tmp_path: Path) -> None:
    """It has the grid of the arms, and as many runs."""
    dataset(tmp_path / "volumes", ndim=3)
    finetune = tmp_path / "finetune.yaml"
    finetune.write_text(f"{FINETUNE}backbone: {{width: 16, depth: 1, heads: 2}}\nhead: {{name: dense, channels: 4}}\n")
    small = {"finetune": finetune, "pretrain": None, "labeled": [2], "dataset": tmp_path / "volumes"}
    made = curve(**options(tmp_path, **small, draws=1, output=tmp_path / "out"))
    tried = list(csv.DictReader((made.folder / "tried.csv").open()))
    grids = {arm: [(row["lr"], row["steps"]) for row in tried if row["arm"] == arm] for arm in ("scratch", "dynunet")}
    assert grids["dynunet"] == grids["scratch"]
    assert len(grids["dynunet"]) == 2
    lines = {line.arm: line for line in made.lines}
    assert set(lines) == {"scratch", "dynunet"}
    assert lines["dynunet"].draws == (0,)
    assert all(0 <= score <= 1 for score in lines["dynunet"].scores)
    assert "Dice" in (made.folder / "curve.md").read_text()


def test_runs_that_diverge_are_reported_and_without_all_pairs_there_is_no_gain(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trial._scores

    def failing(self: Trial, run):
        is_cell = run.purpose == "tuning" and run.arm == "pretrained" and run.way == "frozen"
        if is_cell or (run.purpose, run.arm, run.draw, run.amount) == ("test", "pretrained", 1, 2):
            raise TrainingError("the loss is nan")
        return original(self, run)

    monkeypatch.setattr(Trial, "_scores", failing)
    given = options(place, output=tmp_path / "out", ways=["full", "frozen"], rates=[1e-3])
    finished = curve.run(CurveConfig.parse(given))
    assert len(finished.failures) == 2  # one cell of the grid, one run of the test
    assert all("the loss is nan" in line for line in finished.failures)
    lines = {(line.num_patients, line.arm, line.way): line for line in finished.artifact.lines}
    assert (2, "pretrained", "frozen") not in lines
    assert lines[2, "pretrained", "full"].draws == (0,)
    assert lines[2, "pretrained", "full"].effect is not None
    assert lines[2, "pretrained", "full"].obstacle == "1 of 2 pairs"
    assert lines[8, "pretrained", "full"].draws == (0, 1)


def test_a_failed_run_is_repeated_and_settings_chosen_once_are_never_changed(
    place: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trial._scores
    purpose = "tuning"
    done: list[str] = []

    def failing(self: Trial, run):
        if (run.purpose, run.arm, run.amount) == (purpose, "pretrained", 2):
            raise OSError("the disk is away")
        done.append(run.name)
        return original(self, run)

    monkeypatch.setattr(Trial, "_scores", failing)
    given = options(place, output=tmp_path / "out")
    partial = tmp_path / "out.partial"
    with pytest.raises(DataError, match=r"2 of \d+ runs failed, first tuning-pretrained-full-n2.*the disk is away"):
        curve(**given)
    assert not (partial / "settings.json").exists()
    purpose = "test"
    with pytest.raises(DataError, match=r"2 of \d+ runs failed, first test-pretrained-full-n2"):
        curve(**given, resume=True)
    before = (partial / "settings.json").read_bytes()
    for path in (partial / "runs").glob("tuning-*.npz"):
        path.unlink()  # nothing of the tuning is computed or chosen again
    purpose = ""
    done.clear()
    resumed = curve(**given, resume=True).folder
    assert all(name.startswith("test-pretrained-full-n2") for name in done)
    assert (resumed / "settings.json").read_bytes() == before
    for name in ("settings.json", "tried.csv", "runs.csv", "curve.json"):
        assert (resumed / name).read_text() == (finished / name).read_text()
