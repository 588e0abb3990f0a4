"""`medvit models` lists checkpoints with their backbone, size and scores."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from medvit.artifacts import FIGURES, METRICS, MODEL, WEIGHTS, Checkpoint, Lineage
from medvit.cards.model import write_model_card
from medvit.files.tensors import digest_of
from pipelines.__main__ import main
from tests.models.tuned import backbone_in, tuned_in


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("listed") / "runs"
    backbone = backbone_in(folder / "backbone")
    tuned_in(folder / "ct" / "liver", backbone, kind="segmentation", head={"name": "dense", "channels": 4})
    small = Checkpoint.load(tuned_in(folder / "small", backbone, store="adapter", peft="vpt"))
    write_model_card(small, figures={"best validation metric": 0.875, "loss": float("nan")}, training={})
    tuned_in(folder / "whole", backbone, peft="full")
    report = folder / "report"
    report.mkdir()
    metrics = {"auroc": {"value": 0.9, "low": 0.8, "high": 0.95}, "brier": {"value": 0.1}}
    (report / METRICS).write_text(json.dumps({"metrics": metrics}))
    Lineage("evaluate", "", {"checkpoint": small.hash}).write(report)
    return folder


def test_json_has_every_checkpoint_and_the_digest_of_its_backbone(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", str(runs), "format=json"]) == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    digest = digest_of(runs / "backbone" / WEIGHTS)
    assert list(listed) == ["backbone", "ct/liver", "small", "whole"]
    assert [one["backbone_sha256"] for one in listed.values()] == [digest, digest, digest, ""]
    assert listed["ct/liver"]["classes"] == ["background", "liver", "spleen"]
    assert [one["peft"] for one in listed.values()] == ["", "lora", "vpt", "full"]
    small, whole = listed["small"], listed["whole"]
    assert (small["has_all_weights"], whole["has_all_weights"]) == (False, True)
    assert small["num_bytes"] < whole["num_bytes"] / 2
    assert small["validation"] == 0.875
    assert small["scores"] == [
        {"report": "report", "metrics": json.loads((runs / "report" / METRICS).read_text())["metrics"]}
    ]
    assert json.loads((runs / "small" / FIGURES).read_text())["loss"] is None


def test_the_table_shows_models_of_one_backbone_together(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", f"folder={runs}"]) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("| model | task | backbone | weights |")
    digest = digest_of(runs / "backbone" / WEIGHTS)[:12]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [(row[0], row[3]) for row in cells] == [
        ("backbone", digest),
        ("ct/liver", digest),
        ("small", f"{digest}, not included"),
        ("whole", "own"),
    ]
    assert cells[2][-2:] == ["0.875", "auroc 0.900 (report)"]
    assert cells[1][2] == "vit 48 x 3 2D, patch 8"


def test_a_damaged_checkpoint_is_reported_and_the_others_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone_in(tmp_path / "good")
    bad = backbone_in(tmp_path / "bad")
    (bad / WEIGHTS).unlink()
    other = backbone_in(tmp_path / "other")
    (other / MODEL).write_text(yaml.safe_dump({"schema": 99}))
    assert main(["models", str(tmp_path)]) == 3
    caught = capsys.readouterr()
    assert "| good |" in caught.out
    assert "bad: there is neither model.safetensors nor adapter.safetensors" in caught.err
    assert "other: model.yaml does not describe a model of schema 1" in caught.err


@pytest.mark.parametrize(
    ("name", "text"),
    [("lineage.json", '{"inputs": 3'), ("lineage.json", '{"made": "by others"}'), ("metrics.json", "[1]")],
)
def test_a_damaged_report_is_reported_and_the_checkpoints_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    backbone_in(tmp_path / "good")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "metrics.json").write_text("{}")
    Lineage("evaluate", "").write(tmp_path / "report")
    (tmp_path / "report" / name).write_text(text)
    assert main(["models", str(tmp_path)]) == 3
    caught = capsys.readouterr()
    assert "| good |" in caught.out
    assert re.search(rf"report: .*{name} is damaged and cannot be read", caught.err)


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", str(tmp_path)]) == 2
    assert "no checkpoint in" in capsys.readouterr().err
    assert main(["models", str(tmp_path / "nowhere")]) == 2
    assert "no folder at" in capsys.readouterr().err
