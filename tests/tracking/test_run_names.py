"""Names of runs tell runs apart for a reader of the MLflow page, for every stage."""

from __future__ import annotations

from typing import Any

import pytest

from medvit.tracking import run_name
from medvit.tracking.run_names import MAX_LENGTH
from pipelines.__main__ import STAGES

LORA = {"peft": {"name": "lora", "rank": 8}, "folds": 0, "seeds": None, "checkpoint": "runs/base"}


@pytest.mark.parametrize(
    ("stage", "tree", "datasets", "name"),
    [
        ("ingest", {"name": "hippocampus", "seed": 0}, [], "ingest hippocampus"),
        ("ingest", {"name": None, "dataset": "runs/ct", "seed": 0}, [], "ingest ct"),
        ("pretrain", {"objective": {"name": "dinov2"}, "seed": 2}, ["ct"], "pretrain ct dinov2 seed 2"),
        ("finetune", {**LORA, "seed": 0}, ["hippocampus"], "finetune hippocampus lora-8 seed 0"),
        ("finetune", {**LORA, "folds": 5, "seeds": 2, "seed": 0}, ["ct"], "finetune ct lora-8 5 folds 2 seeds seed 0"),
        ("finetune", {"peft": None, "seed": 0}, ["ct"], "finetune ct seed 0"),
        ("evaluate", {"checkpoint": "runs/lora", "split": "test"}, ["hippocampus"], "evaluate hippocampus lora test"),
        ("predict", {"checkpoint": ["runs/a", "runs/b"], "output": "out"}, [], "predict a+b"),
        ("leakage", {"a": "one", "output": "found"}, ["ct", "mr", "ct"], "leakage ct+mr"),
        ("send", {"predictions": "runs/predictions"}, [], "send predictions"),
        ("compare", {"reports": ["r1", "r2"], "output": "runs/compared"}, [], "compare compared"),
    ],
)
def test_a_name_has_what_distinguishes_runs(stage: str, tree: dict[str, Any], datasets: list[str], name: str) -> None:
    assert run_name(stage, tree, datasets) == name


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_name_even_without_options(stage: str) -> None:
    assert run_name(stage, {}) == stage


def test_a_long_name_is_cut() -> None:
    assert len(run_name("evaluate", {"checkpoint": "x" * 300}, ["ct"])) == MAX_LENGTH
