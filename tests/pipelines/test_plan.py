"""A plan reports the resources of a training and makes only its table."""

import csv
from pathlib import Path

import pytest

from medvit.artifacts import Lineage
from medvit.dataset.manifest import Manifest
from pipelines.__main__ import main
from pipelines.plan import FinetunePlanConfig, plan
from tests.training.conftest import dataset
from tests.training.test_runs import MAE, TINY, finetune_options

SMALL = [
    "tracking.enabled=false",
    "preprocess.kind=image",
    *(f"backbone.{key}={value}" for key, value in TINY.items()),
    "trainer.precision=32-true",
    "loader.batch_size=2",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return dataset(tmp_path_factory.mktemp("data") / "images", ndim=2)


def table(capsys) -> dict[str, str]:
    lines = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()]
    return {name: rest.strip() for name, rest in lines}


def test_a_pretraining_is_planned_in_a_table_and_nothing_is_made(images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    decoder = [f"objective.{key}={value}" for key, value in MAE.items()]
    assert main(["plan", "pretrain", f"dataset={images}", *SMALL, *decoder, "trainer.epochs=7"]) == 0
    planned = table(capsys)
    assert planned["images"] == "8  2 a step, seen 175.0 times"
    assert planned["trained weights"].endswith("100.0% of all")
    assert "700 steps in 7 epochs: 1,400 images, 175 passes over the training data" in planned["time to finish"]
    assert list(tmp_path.iterdir()) == [Path.cwd() / "plan-1"]
    with (tmp_path / "plan-1" / "plan.csv").open(newline="") as file:
        kept = {line["what"]: f"{line['how_much']}  {line['how_it_is_known']}".strip() for line in csv.DictReader(file)}
    assert kept == planned


def test_a_finetuning_is_planned_too_and_only_what_learns_is_counted(images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "finetune", f"dataset={images}", *SMALL, "peft=frozen"]) == 0
    planned = table(capsys)
    assert planned["trained weights"].startswith("130 ")  # two classes of class token and mean patch, 32 features each
    assert list(tmp_path.iterdir()) == [Path.cwd() / "plan-1"]


def test_an_ensemble_is_planned_by_its_first_model(images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "finetune", f"dataset={images}", *SMALL, "folds=2"]) == 0
    assert "2 models of " in capsys.readouterr().out


def test_what_cannot_be_planned_is_told_with_what_can(capsys):
    assert main(["plan", "evaluate"]) == 2
    assert "no stage to plan is named 'evaluate'; known are pretrain, finetune" in capsys.readouterr().err


def test_a_plan_from_python_speaks_of_the_options_given(images, tmp_path):
    options = finetune_options(images, backbone=TINY, head=None, preprocess={"kind": "image"})
    config = FinetunePlanConfig.parse({**options, "output": tmp_path / "x", "plan": tmp_path / "plan"})
    made = plan(config)
    assert "4 steps in 2 epochs" in str(made)
    assert list(tmp_path.iterdir()) == [made.folder]
    assert Lineage.read(made.folder).inputs == {"dataset": Manifest.read(images).hash}
