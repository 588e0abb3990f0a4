"""Names of runs, from their stage and resolved options, such as `finetune hippocampus lora-8 seed 0`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from medvit.config import Tree

MAX_LENGTH = 120
FOLDERS = ("checkpoint", "predictions", "embeddings", "dataset", "output")
"""Options with the folder that a run without a dataset is about, in the order in which they are tried."""


def run_name(stage: str, tree: Tree, datasets: Sequence[str] = ()) -> str:
    """Return the name of a run: stage, datasets, model, adaptation, and what distinguishes repetitions.

    `tree` contains the resolved options, and `datasets` the names of the datasets that were read so far.

    >>> run_name("finetune", {"peft": {"name": "lora", "rank": 8}, "folds": 0, "seed": 0}, ["hippocampus"])
    'finetune hippocampus lora-8 seed 0'
    >>> run_name("evaluate", {"checkpoint": "runs/lora", "split": "test", "seed": 0}, ["hippocampus"])
    'evaluate hippocampus lora test'
    """
    words = [stage, *(_subject(tree, datasets)), *_method(tree), *_repetition(tree)]
    name = " ".join(word for word in words if word)
    return name if len(name) <= MAX_LENGTH else f"{name[: MAX_LENGTH - 3]}..."


def _subject(tree: Tree, datasets: Sequence[str]) -> Iterator[str]:
    """Yield the datasets, and the model if the run does not train one."""
    yield "+".join(dict.fromkeys(datasets)) or str(tree.get("name") or "")
    folders = [] if _is_training(tree) else [_last_part(tree.get(key)) for key in FOLDERS]
    found = [folder for folder in folders if folder]
    if found and (not datasets or tree.get("checkpoint")):
        yield found[0]


def _method(tree: Tree) -> Iterator[str]:
    """Yield objective, adaptation and the evaluated split."""
    for key in ("objective", "peft"):
        choice = tree.get(key)
        if isinstance(choice, dict) and choice.get("name"):
            rank = choice.get("rank")
            yield f"{choice['name']}-{rank}" if rank else str(choice["name"])
    if isinstance(tree.get("split"), str):
        yield str(tree["split"])


def _repetition(tree: Tree) -> Iterator[str]:
    """Yield folds, seeds and seed of a training."""
    if not _is_training(tree):
        return
    if tree.get("folds"):
        yield f"{tree['folds']} folds"
    if (tree.get("seeds") or 1) > 1:
        yield f"{tree['seeds']} seeds"
    yield f"seed {tree.get('seed', 0)}"


def _is_training(tree: Tree) -> bool:
    return "peft" in tree or "objective" in tree


def _last_part(value: Any) -> str:
    """Return the name of a folder; of several folders, all names."""
    values = value if isinstance(value, list) else [value]
    return "+".join(PurePath(str(one)).name for one in values if one)
