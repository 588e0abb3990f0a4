"""List of the checkpoints below a folder, with the backbone that each one shares, without loading their weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvit.artifacts import (
    ADAPTER,
    CHECKPOINT_FILES,
    FIGURES,
    METRICS,
    MODEL,
    PREPROCESS,
    SCHEMA_VERSION,
    WEIGHTS,
    Checkpoint,
    Lineage,
)
from medvit.config import Tree, read_yaml
from medvit.dataset.manifest import FILE_NAME as MANIFEST
from medvit.errors import CheckpointError, ConfigError, DataError
from medvit.files.tensors import digest_of

BEST = "best validation metric"
"""End of the name of the metric by which the kept epoch was chosen, in the training figures of a checkpoint."""


@dataclass(frozen=True)
class Score:
    """Metrics of a checkpoint from one report of `medvit evaluate`, keyed by name, with confidence intervals."""

    report: str
    metrics: Mapping[str, Tree]


@dataclass(frozen=True)
class ListedModel:
    """Checkpoint in the list: its parts, the size of its files, and its metrics."""

    name: str
    """Path of the checkpoint's folder, relative to the listed folder."""
    task: str
    """Task of the model; `backbone` if it is only pretrained, `slide` if it is a slide model."""
    backbone: str
    backbone_sha256: str
    """SHA-256 of the backbone weights, by which checkpoints on one backbone are found; empty if training changed them
    all.
    """
    peft: str
    head: str
    classes: tuple[str, ...]
    num_bytes: int
    """Size of all files of the checkpoint."""
    has_all_weights: bool
    """Whether the checkpoint contains the weights of its backbone."""
    members: int = 1
    """Number of models in an ensemble, or number of heads of a slide model."""
    validation: float | None = None
    """Validation metric of the epoch that was kept; for an ensemble, the mean over its members."""
    scores: tuple[Score, ...] = field(default_factory=tuple)


def list_models(folder: Path, failures: list[str]) -> list[ListedModel]:
    """Return the checkpoints in a folder and below it, in groups that share a backbone.

    Datasets, hidden folders and unfinished runs are skipped. A damaged checkpoint or report adds a line to `failures`.
    """
    found: list[tuple[Path, Tree]] = []
    reports: dict[str, list[Score]] = {}
    for place, names in _folders(folder):
        if MODEL in names:
            try:
                found.append((place, _described(place)))
            except (CheckpointError, ConfigError, ValueError) as error:
                failures.append(f"{_name(place, folder)}: {error}")
        elif METRICS in names:
            try:
                lineage = Lineage.read(place)
                if lineage is not None:
                    score = Score(_name(place, folder), _metrics(place))
                    reports.setdefault(lineage.inputs.get("checkpoint", ""), []).append(score)
            except DataError as error:
                failures.append(f"{_name(place, folder)}: {error}")
    listed: list[ListedModel] = []
    for place, model in found:
        try:
            listed.append(_listed(place, model, folder, reports))
        except (CheckpointError, json.JSONDecodeError) as error:
            failures.append(f"{_name(place, folder)}: {error}")
    return sorted(listed, key=lambda one: (one.backbone_sha256 or "~", one.task != "backbone", one.name))


def _folders(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    for place, folders, names in os.walk(folder):
        is_dataset = MANIFEST in names
        folders[:] = [] if is_dataset else sorted(n for n in folders if not n.startswith(".") and ".partial" not in n)
        if not is_dataset:
            yield Path(place), names


def _described(folder: Path) -> Tree:
    """Return the description of a checkpoint.

    Raises:
        CheckpointError: If the folder lacks weights or preprocessing, or has an unsupported schema.
        ConfigError: If the description is not YAML.
    """
    model = read_yaml(folder / MODEL)
    if model.get("schema") != SCHEMA_VERSION or "backbone" not in model or "kind" not in model:
        raise CheckpointError(f"{MODEL} does not describe a model of schema {SCHEMA_VERSION}")
    if not any((folder / name).is_file() for name in (WEIGHTS, ADAPTER)):
        raise CheckpointError(f"there is neither {WEIGHTS} nor {ADAPTER}")
    if not (folder / PREPROCESS).is_file():
        raise CheckpointError(f"there is no {PREPROCESS}")
    return {key: value for key, value in model.items() if key != "schema"}


def _listed(folder: Path, model: Tree, root: Path, reports: Mapping[str, list[Score]]) -> ListedModel:
    best = [value for name, value in _json(folder / FIGURES).items() if name.endswith(BEST) and value is not None]
    sizes = [(folder / name).stat().st_size for name in CHECKPOINT_FILES if (folder / name).is_file()]
    return ListedModel(
        name=_name(folder, root),
        task=str(model["kind"]),
        backbone=_backbone(model["backbone"]),
        backbone_sha256=_digest(folder, model),
        peft=str((model.get("peft") or {}).get("name", "")),
        head=str((model.get("head") or {}).get("name", "")),
        classes=tuple(map(str, model.get("classes", ()))),
        num_bytes=sum(sizes),
        has_all_weights=(folder / WEIGHTS).is_file(),
        members=int(model.get("members", 1)),
        validation=sum(best) / len(best) if best else None,
        scores=tuple(reports.get(_hash(folder, model), ())) if reports else (),
    )


def _name(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix() if folder != root else folder.absolute().name


def _digest(folder: Path, model: Tree) -> str:
    if model["kind"] == "backbone":
        return digest_of(folder / WEIGHTS)
    if model["kind"] == "slide":
        return digest_of(folder / WEIGHTS, "backbone.")
    return str((model.get("base") or {}).get("sha256", ""))


def _backbone(options: Tree) -> str:
    """Return a short description of a backbone, such as `vit small 2D, patch 16`."""
    size = options.get("model") or options.get("size") or ""
    if options.get("width"):
        size = f"{options['width']} x {options.get('depth')}"
    patch = options.get("patch_size")
    patches = f", patch {'x'.join(map(str, patch)) if isinstance(patch, list) else patch}" if patch else ""
    return f"{options['name']} {size} {options.get('ndim')}D{patches}".replace("  ", " ")


def _hash(folder: Path, model: Tree) -> str:
    return Checkpoint(folder, model, _json(folder / PREPROCESS), {}).hash


def _metrics(folder: Path) -> Mapping[str, Tree]:
    """Return the metrics of a report.

    Raises:
        DataError: If the file is damaged.
    """
    try:
        return dict(_json(folder / METRICS).get("metrics", {}))
    except (ValueError, TypeError):
        raise DataError(f"{METRICS} is damaged and cannot be read; run evaluate again") from None


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
