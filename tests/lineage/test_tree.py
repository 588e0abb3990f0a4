"""Lineage of artifacts on disk: trees backwards and forwards, changes of inputs, and the artifacts of a patient."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from medvit.artifacts import Checkpoint, Lineage
from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.lineage.index import find_artifacts, read_artifact
from medvit.lineage.patients import PatientNames, patient_uses
from medvit.lineage.tree import missing, origins, uses
from pipelines.results.lineage import lineage
from tests.lineage.chain import PATIENT, write_chain


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_chain(tmp_path)


def test_a_prediction_leads_back_to_datasets_code_options_and_weights(runs: Path) -> None:
    found = list(find_artifacts(runs))
    tree = origins(read_artifact(runs / "predictions"), found)
    assert [(node.role, node.artifact.name, node.state) for node in tree.walk()] == [
        ("", "predictions", "unchanged"),
        ("checkpoint", "model", "unchanged"),
        ("checkpoint", "backbone", "unchanged"),
        ("dataset", "unlabeled", "unchanged"),
        ("dataset", "labeled", "unchanged"),
    ]
    text = "\n".join(tree.lines())
    assert Manifest.read(runs / "labeled").hash[:12] in text
    assert "commit 0123456789ab with changed files" in text
    assert "config c0" in text
    assert not missing(tree)


def test_a_dataset_leads_forward_to_models_reports_and_predictions(runs: Path) -> None:
    tree = uses(read_artifact(runs / "unlabeled"), list(find_artifacts(runs)))
    assert [node.artifact.name for node in tree.walk()] == ["unlabeled", "backbone", "model", "predictions", "report"]


def test_inputs_are_found_by_digest_wherever_their_folder_is(runs: Path) -> None:
    (runs / "moved").mkdir()
    (runs / "backbone").rename(runs / "moved" / "elsewhere")
    tree = origins(read_artifact(runs / "predictions"), list(find_artifacts(runs)))
    assert "elsewhere" in [node.artifact.name for node in tree.walk()]


def test_a_changed_input_and_a_missing_one_are_reported(runs: Path) -> None:
    changed = Checkpoint.load(runs / "backbone")
    replace(changed, model={**changed.model, "width": 99}).save()
    (runs / "model" / "config.yaml").write_text(f"checkpoint: {runs / 'backbone'}\n", encoding="utf-8")
    shutil.rmtree(runs / "labeled")
    assert missing(origins(read_artifact(runs / "model"), list(find_artifacts(runs)))) == [
        f"checkpoint {Lineage.read(runs / 'model').inputs['checkpoint'][:12]}: changed since",
        f"dataset {Lineage.read(runs / 'model').inputs['dataset'][:12]}: not found",
    ]


def test_copies_in_mlflow_and_unfinished_outputs_are_not_artifacts(runs: Path) -> None:
    shutil.copytree(runs / "model", runs / "mlartifacts" / "m-1" / "artifacts" / "checkpoint")
    (runs / "mlartifacts" / "m-1" / "MLmodel").touch()
    shutil.copytree(runs / "model", runs / "other.partial")
    names = [one.name for one in find_artifacts(runs)]
    assert sorted(names) == ["backbone", "labeled", "model", "predictions", "report", "unlabeled"]


def test_the_artifacts_of_a_patient_are_listed_with_what_they_contain(runs: Path) -> None:
    found = list(find_artifacts(runs))
    listed = {one.artifact.name: one.what for one in patient_uses(PatientNames.of(PATIENT, found), found)}
    assert listed == {
        "labeled": "1 image",
        "unlabeled": "2 images",
        "backbone": "trained on this patient",
        "model": "trained on this patient",
        "report": "1 image",
        "predictions": "1 study",
    }
    stranger = PatientNames.of("p-ffffffffffff", found)
    assert not list(patient_uses(stranger, found))


def test_the_stage_prints_trees_and_writes_a_page(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lineage(path=runs / "model", runs=runs, html=runs / "page.html")
    text = capsys.readouterr().out
    assert text.index("made from") < text.index("backbone") < text.index("used by") < text.index("predictions")
    page = (runs / "page.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("backbone", "unlabeled", "predictions", "report"))
    lineage(patient=PATIENT, runs=runs, html=runs / "patient.html")
    assert "trained on this patient" in (runs / "patient.html").read_text(encoding="utf-8")


def test_folders_that_are_not_artifacts_and_unknown_patients_are_refused(runs: Path) -> None:
    with pytest.raises(DataError, match="not an artifact"):
        lineage(path=runs, runs=runs)
    with pytest.raises(DataError, match="none of the 6 artifacts"):
        lineage(patient="p-ffffffffffff", runs=runs)
