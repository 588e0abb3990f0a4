"""Folds of patients, ensembles over folds and seeds, and predictions out of fold."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from medvit.artifacts import ADAPTER, Checkpoint, Report
from medvit.config import ConfigError
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.errors import CheckpointError, DataError
from medvit.evaluation.report.page import read_table
from medvit.inference.out_of_fold import StoredPredictions
from medvit.inference.predictor import Predictor
from medvit.leakage.seen_patients import seen_patients
from medvit.models.ensemble import Ensemble
from medvit.models.interchange import to_peft, to_timm
from medvit.statistics.auroc import Ranking
from medvit.tracking import Tracker
from medvit.training.ensembles.folds import EnsembleMember, members_of
from medvit.training.ensembles.images import EnsembleTraining
from pipelines.evaluate import evaluate
from pipelines.finetune import FinetuneConfig, finetune
from pipelines.pretrain import pretrain
from tests.training.test_runs import TINY, interrupt

QUICK = {
    "tracking": {"enabled": False},
    "backbone": TINY,
    "preprocess": {"kind": "image"},
    "trainer": {"epochs": 1, "steps_per_epoch": 2, "precision": "32-true"},
    "loader": {"batch_size": 4},
}

DENSE = {
    **QUICK,
    "backbone": TINY | {"ndim": 3},
    "preprocess": {"kind": "volume"},
    "head": {"name": "dense", "channels": 4, "num_depths": 2},
}


@pytest.fixture(scope="module")
def rows(images):
    return [replace(row, patient_id=f"p-{n // 2}") for n, row in enumerate(Manifest.read(images))]


@pytest.fixture(scope="module")
def ensemble(images, tmp_path_factory):
    """Two seeds of three folds."""
    output = tmp_path_factory.mktemp("folds") / "model"
    return finetune(dataset=images, output=output, folds=3, seeds=2, peft="lora", **QUICK)


@pytest.mark.parametrize("folds", [0, 3])
def test_no_patient_is_on_both_sides_of_a_model(rows, folds):
    held_out_of = []
    for member in members_of(folds, 3, 0):
        learning, held_out = member.divide(rows)
        assert sorted(learning + held_out) == list(range(12))
        assert not {rows[n].patient_id for n in learning} & {rows[n].patient_id for n in held_out} or not folds
        held_out_of.append(frozenset(held_out))
    if folds:
        assert frozenset.union(*held_out_of) == set(range(12))
        assert sum(map(len, held_out_of)) == 12
    else:
        assert {rows[n].split for n in held_out_of[0]} == {"val"}
        assert len(set(held_out_of)) == 1


def test_every_fold_has_its_share_of_patients_of_each_class(rows):
    classes = [0, 0, 0, 1] * 6
    patients = [replace(rows[0], patient_id=f"p-{n:02d}") for n in range(24)]
    for seed in range(5):
        for member in members_of(3, 3, seed):
            _, held_out = member.divide(patients, classes)
            assert Counter(classes[n] for n in held_out) == {0: 6, 1: 2}


@pytest.mark.parametrize("data", ["images", "volumes"])
def test_every_fold_has_its_share_of_patients_with_a_target(data, request):
    manifest = Manifest.read(request.getfixturevalue(data))
    rows = tuple(row if n < 4 else replace(row, labels={}, mask=None) for n, row in enumerate(manifest))
    for seed in range(5):
        for member in members_of(4, 4, seed):
            held_out = [row for row in member.split(replace(manifest, rows=rows), "label") if row.split == "val"]
            assert len(held_out) == 3
            assert sum(bool(row.labels or row.mask) for row in held_out) == 1


def test_the_test_split_is_in_no_fold(images):
    manifest = Manifest.read(images)
    manifest = replace(
        manifest, rows=tuple(replace(row, split="test") if n < 3 else row for n, row in enumerate(manifest))
    )
    for member in members_of(3, 6, 0):
        divided = member.split(manifest, "label")
        assert [row.split for row in divided][:3] == ["test"] * 3
        assert Counter(row.split for row in divided) == {"test": 3, "val": 3, "train": 6}


def test_more_folds_than_patients_and_a_single_fold_are_refused(images):
    with pytest.raises(DataError, match=r"train and val have 12 patients, too few for folds=13"):
        EnsembleMember(0, 13, 0).split(Manifest.read(images), "label")
    with pytest.raises(ConfigError, match=r"folds=1 leaves nothing to train on"):
        FinetuneConfig.parse({"dataset": images, "output": "x", "folds": 1})


def test_options_of_earlier_versions_are_taken(images):
    given = {"dataset": images, "output": "x", "bags": {"members": 6, "folds": 3, "tiles": 9}}
    config = FinetuneConfig.parse(given)
    assert (config.folds, config.seeds, config.bags.tiles) == (3, 2, 9)
    with pytest.raises(ConfigError, match=r"bags\.members=5 is not a multiple of folds=3"):
        FinetuneConfig.parse({**given, "bags": {"members": 5, "folds": 3}})
    with pytest.raises(ConfigError, match=r"bags\.members is now called seeds, and both are given"):
        FinetuneConfig.parse({**given, "seeds": 2})


def test_the_first_of_several_seeds_is_the_run_of_a_single_model(images, tmp_path):
    single = finetune(dataset=images, output=tmp_path / "one", **QUICK)
    both = finetune(dataset=images, output=tmp_path / "two", seeds=2, **QUICK)
    for name, weight in single.state.items():
        assert torch.equal(both.state[f"members.0.{name}"], weight)
    assert not torch.equal(both.state["members.1.head.linear.weight"], single.state["head.linear.weight"])


def test_an_ensemble_predicts_the_mean_of_its_models(ensemble, images):
    manifest = Manifest.read(images)
    image = load(manifest, manifest.rows[0])
    predictor = Predictor(Checkpoint.load(ensemble.folder), device="cpu")
    alone = []
    for number in range(6):
        predictor.model.active = (number,)
        alone.append(predictor(image).probabilities)
    predictor.model.active = tuple(range(6))
    np.testing.assert_allclose(predictor(image).probabilities, np.mean(alone, axis=0), atol=1e-6)
    assert np.ptp(alone, axis=0).max() > 0
    assert (ensemble.folder / ADAPTER).is_file()
    assert not [path for path in ensemble.folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("write", [to_timm, to_peft])
def test_an_ensemble_has_no_single_backbone_to_export(ensemble, tmp_path, write):
    with pytest.raises(CheckpointError, match="is an ensemble of 6 models, each with a backbone of its own"):
        write(Checkpoint.load(ensemble.folder), tmp_path / "out")


def test_no_image_is_predicted_by_a_model_that_learned_from_its_patient(ensemble, images):
    manifest, found = Manifest.read(images), StoredPredictions.read(ensemble.folder / "out_of_fold")
    members = members_of(3, 6, 0)
    assert set(found.lines) == {row.image_id for row in manifest}
    predictor = Predictor(Checkpoint.load(ensemble.folder), device="cpu")
    for row in manifest:
        held_out_by = [m.number for m in members if dict_of(m, manifest)[row.image_id] == "val"]
        assert found.lines[row.image_id]["models"] == [number + 1 for number in held_out_by]
        assert len(held_out_by) == 2
        predictor.model.active = tuple(held_out_by)
        image = load(manifest, row)
        np.testing.assert_allclose(found(image).probabilities, predictor(image).probabilities, atol=1e-6)


def dict_of(member: EnsembleMember, manifest: Manifest) -> dict[str, str]:
    return {row.image_id: row.split for row in member.split(manifest, "label")}


def test_predictions_of_all_seeds_are_evaluated_once_for_each_patient(ensemble, images, tmp_path):
    given = {"dataset": images, "tracking": {"enabled": False}, "resamples": 100}
    report = evaluate(predictions=ensemble.folder / "out_of_fold", output=tmp_path / "report", **given)
    table = read_table(report.folder)
    manifest = Manifest.read(images)
    assert sorted(table["image_id"]) == sorted(row.image_id for row in manifest if row.split in ("train", "val"))
    metrics = json.loads((report.folder / "metrics.json").read_text(encoding="utf-8"))
    positive = metrics["positive"]
    is_case = table["truth"] == metrics["classes"].index(positive)
    pooled = Ranking(is_case, table[f"p.{positive}"].astype(np.float64), list(table["patient_id"])).estimate()
    assert metrics["metrics"]["auroc"] == pytest.approx(asdict(pooled))
    assert 3 < metrics["folds"]["number"] <= 3 * 3  # the second seed divides the patients again


def test_a_report_tells_that_the_initial_weights_know_the_patients(images, tmp_path):
    shared = {key: QUICK[key] for key in ("tracking", "backbone", "preprocess", "loader")}
    trainer = {"epochs": 1, "steps_per_epoch": 1, "precision": "32-true"}
    objective = {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    backbone = pretrain(
        dataset=images, output=tmp_path / "backbone", trainer=trainer, objective=objective, guard="off", **shared
    )
    manifest = Manifest.read(images)
    known = seen_patients(backbone.folder, manifest)
    assert known
    options = {key: value for key, value in QUICK.items() if key != "backbone"}
    model = finetune(dataset=images, output=tmp_path / "model", folds=2, checkpoint=backbone.folder, **options)
    given = {"dataset": images, "tracking": {"enabled": False}, "resamples": 100}
    report = evaluate(predictions=model.folder / "out_of_fold", output=tmp_path / "report", **given)
    text = (report.folder / "report.html").read_text(encoding="utf-8")
    assert f"initial weights of the models were trained on images of {len(known)} of these patients" in text


def test_patients_of_all_folds_are_training_patients_with_the_last_weights(images, tmp_path):
    made = finetune(dataset=images, output=tmp_path / "model", folds=3, keep="last", **QUICK)
    manifest = Manifest.read(images)
    assert seen_patients(made.folder, manifest) == {row.patient_id for row in manifest}
    assert "- images: 12, in 3 folds of patients" in (made.folder / "model_card.md").read_text().splitlines()
    assert made.training == {"trained on": "12 images, 12 patients"}


def test_a_network_planned_for_its_images_is_equal_in_all_models(volumes, tmp_path):
    """Spacings differ between folds."""
    manifest = Manifest.read(volumes)
    flat, *cubes = manifest.rows
    rows = (replace(row, spacing_mm=(1.0, 1.0, 3.0)) for row in cubes[:6])
    mixed = replace(manifest, rows=(flat, *rows, *cubes[6:]))
    options = {**QUICK, "preprocess": {"kind": "volume"}, "loader": {"batch_size": 2}, "head": "own"}
    options["backbone"] = {"name": "dynunet", "widths": [2, 2, 2]}
    config = FinetuneConfig.parse({"dataset": volumes, "output": "x", "folds": 3, **options})
    training = EnsembleTraining(config, mixed, None, lambda *_: "", 0, tmp_path / "model", Tracker())
    assert Ensemble.from_checkpoint(training.train()).config.members == 3


def test_largest_components_are_decided_on_the_held_out_images_of_all_models(volumes, tmp_path, monkeypatch):
    """The Dice of the first model falls by less than that of the second rises."""
    falls, rises = ([(4, 8)], [(3, 8)]), ([(2, 8)], [(4, 8)])  # intersection and sum, before and after
    found = iter([torch.tensor(each, dtype=torch.float)[..., None] for each in (falls, rises)])
    monkeypatch.setattr("medvit.training.ensembles.images.component_overlaps", lambda *_: next(found))
    made = finetune(dataset=volumes, output=tmp_path / "model", folds=2, largest_components=True, **DENSE)
    assert made.model["largest_components"] == ["ball"]
    assert Predictor(Checkpoint.load(made.folder), device="cpu").config.largest_components == ("ball",)


def test_masks_out_of_fold_are_evaluated_on_all_patients(volumes, tmp_path):
    model = finetune(dataset=volumes, output=tmp_path / "model", folds=2, **DENSE)
    given = {"dataset": volumes, "tracking": {"enabled": False}, "resamples": 100}
    report = evaluate(predictions=model.folder / "out_of_fold", output=tmp_path / "report", **given)
    assert isinstance(report, Report)
    assert 0 <= report.metrics["dice"] <= 1
    assert len(StoredPredictions.read(model.folder / "out_of_fold").lines) == 12
    with pytest.raises(ConfigError, match="checkpoint and predictions"):
        evaluate(predictions=model.folder / "out_of_fold", checkpoint=model.folder, output=tmp_path / "x", **given)
    with pytest.raises(DataError, match=r"no description\.json"):
        evaluate(predictions=model.folder, output=tmp_path / "y", **given)


def test_an_interrupted_ensemble_goes_on_to_the_same_models(images, ensemble, tmp_path, monkeypatch):
    options = {"dataset": images, "output": tmp_path / "cut", "folds": 3, "seeds": 2, "peft": "lora", **QUICK}
    interrupt(finetune, monkeypatch, 1, **options)
    resumed = finetune(resume=True, **options)
    assert all(torch.equal(resumed.state[name], weight) for name, weight in ensemble.state.items())
