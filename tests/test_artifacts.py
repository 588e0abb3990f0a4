"""Checkpoints load completely, other folders are refused with a reason, and artifacts list their contents."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medvit.artifacts import ADAPTER, LINEAGE, MODEL, PREPROCESS, WEIGHTS, Checkpoint, Lineage
from medvit.errors import CheckpointError
from medvit.files.atomic import write_text
from medvit.summary import Summary, counted, duration, labeled


def checkpoint(folder: Path, *, value: float = 1.0, kind: str = "classification") -> Checkpoint:
    state = {"head.weight": torch.full((2, 3), value), "blocks.0.bias": torch.arange(4).to(torch.bfloat16)}
    adapter = {"lora": torch.ones(2)}
    return Checkpoint(folder, {"kind": kind, "classes": ["no", "yes"]}, {"kind": "image"}, state, adapter)


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = checkpoint(tmp_path / "made").save()
    loaded = Checkpoint.load(tmp_path / "made")
    assert (loaded.model, loaded.preprocess) == (saved.model, saved.preprocess)
    assert all(torch.equal(loaded.state[key], saved.state[key]) for key in saved.state)
    assert loaded.state["blocks.0.bias"].dtype == torch.bfloat16
    assert torch.equal(load_file(saved.folder / ADAPTER)["lora"], saved.adapter["lora"])


def test_weights_that_share_memory_are_saved(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    made = Checkpoint(tmp_path, {"kind": "backbone"}, {}, {"a": weight, "b": weight, "c": weight.T}).save()
    assert torch.equal(Checkpoint.load(tmp_path).state["c"], weight.T)
    assert made.adapter is None


def test_the_hash_names_weights_and_descriptions(tmp_path: Path) -> None:
    one, same = checkpoint(tmp_path / "a").save(), checkpoint(tmp_path / "b").save()
    other, task = checkpoint(tmp_path / "c", value=2.0).save(), checkpoint(tmp_path / "d", kind="segmentation").save()
    assert one.hash == same.hash == Checkpoint.load(tmp_path / "a").hash
    assert len({one.hash, other.hash, task.hash}) == 3


def test_saving_leaves_no_partial_file(tmp_path: Path) -> None:
    checkpoint(tmp_path).save()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_folder_that_is_no_checkpoint_says_what_is_missing(tmp_path: Path) -> None:
    checkpoint(tmp_path).save()
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / PREPROCESS).unlink()
    with pytest.raises(CheckpointError, match=rf"no {WEIGHTS} and no {PREPROCESS} in it"):
        Checkpoint.load(tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS, PREPROCESS, MODEL])
def test_a_damaged_checkpoint_says_so(tmp_path: Path, name: str) -> None:
    checkpoint(tmp_path).save()
    (tmp_path / name).write_text("{[", encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged"):
        Checkpoint.load(tmp_path)


def test_a_checkpoint_of_another_schema_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path).save()
    (tmp_path / MODEL).write_text("schema: 99\nkind: backbone\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="unsupported schema"):
        Checkpoint.load(tmp_path)


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path) -> None:
    made = checkpoint(tmp_path).save()
    assert made.require("classification", "segmentation") is made
    with pytest.raises(CheckpointError, match="is a classification checkpoint; this stage needs segmentation"):
        made.require("segmentation")


def test_lineage_comes_back(tmp_path: Path) -> None:
    lineage = Lineage("finetune", "ab", {"dataset": "cd"}, {"dataset": "run"}, "own")
    lineage.write(tmp_path)
    assert Lineage.read(tmp_path) == lineage
    assert json.loads((tmp_path / LINEAGE).read_text(encoding="utf-8"))["stage"] == "finetune"
    assert Lineage.read(tmp_path / "absent") is None


def test_a_text_replaces_another_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "long text")
    write_text(tmp_path / "a.txt", "ä")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "ä"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_checkpoint_tells_its_kind_its_size_and_how_its_training_went(tmp_path: Path) -> None:
    saved = replace(checkpoint(tmp_path).save(), training={"best": "val_auroc 0.9, epoch 2 of 3 (step 8)"})
    assert [line.split(maxsplit=1) for line in saved.summary().text(tmp_path).splitlines()][:3] == [
        ["model", "classification"],
        ["weights", "10; 2 trained ones stored separately, too"],
        ["best", "val_auroc 0.9, epoch 2 of 3 (step 8)"],
    ]


def test_a_summary_names_the_folder_and_those_of_its_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "card.md").touch()
    (tmp_path / "b").touch()
    summary = Summary(labeled("refused", ["1 file", "2 files"]), {"card.md": "data card", "a": "absent", "b": "there"})
    assert summary.text(tmp_path).splitlines() == [
        "  refused  1 file",
        "           2 files",
        f"  folder   {tmp_path}",
        "  open     card.md (data card)",
        "           b (there)",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_agree_with_their_nouns() -> None:
    nouns = ("study", "query", "file")
    assert [counted(1, noun) for noun in nouns] == ["1 study", "1 query", "1 file"]
    assert [counted(2, noun) for noun in nouns] == ["2 studies", "2 queries", "2 files"]
