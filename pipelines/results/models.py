"""List of the checkpoints in a folder, with the backbones that they share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from medvit.config import Config
from medvit.document import Table, markdown_table
from medvit.errors import ConfigError
from medvit.evaluation.report.summary import MAIN
from medvit.models.listing import ListedModel, list_models
from medvit.stage import Finished

HEAD = ("model", "task", "backbone", "weights", "peft", "head", "classes", "MB", "validation", "report")
SHOWN_CLASSES = 4
DIGITS = 12
"""Number of digits that are shown of a backbone's SHA-256."""


class ModelsConfig(Config):
    """Options of `medvit models`."""

    folder: Path = Path()
    """Folder to search for checkpoints, at any depth. The prefix `folder=` may be omitted."""
    format: Literal["table", "json"] = "table"
    """Output format. table: a table in which models that share a backbone are in neighboring rows. json: a list with
    all facts, such as the whole SHA-256 of the backbone, sizes in bytes, and every metric of a report.
    """


@dataclass(frozen=True)
class Listed:
    """Checkpoints in a folder."""

    folder: Path
    models: tuple[ListedModel, ...]

    def table(self) -> str:
        """Return the checkpoints as a table in Markdown."""
        return markdown_table(Table(list(HEAD), [_line(one) for one in self.models]))

    def json(self) -> str:
        """Return all facts as JSON."""
        return json.dumps([asdict(one) for one in self.models], indent=2)


@dataclass(frozen=True)
class Models:
    """List the checkpoints in a folder: task, classes, size, scores, and which share a backbone."""

    config_type: type[ModelsConfig] = ModelsConfig

    def about(self, words: Sequence[str]) -> tuple[Models, list[str]]:
        """Return the stage itself, and the arguments, with a folder `runs` written as `folder=runs`."""
        is_folder = [("=" not in word and not word.endswith((".yaml", ".yml"))) for word in words]
        return self, [f"folder={word}" if one else word for word, one in zip(words, is_folder, strict=True)]

    def run(self, config: ModelsConfig) -> Finished[Listed]:
        """Print the checkpoints.

        Raises:
            ConfigError: If there is no such folder, or no checkpoint in it.
        """
        failures: list[str] = []
        if not config.folder.is_dir():
            raise ConfigError(f"no folder at {config.folder}; give the folder that contains the checkpoints")
        listed = Listed(config.folder, tuple(list_models(config.folder, failures)))
        if not listed.models and not failures:
            raise ConfigError(f"no checkpoint in {config.folder}; give a folder that contains outputs of finetune")
        print(listed.json() if config.format == "json" else listed.table())
        return Finished(listed, tuple(failures))


def _line(one: ListedModel) -> list[str | float]:
    shown = list(one.classes[:SHOWN_CLASSES])
    classes = ", ".join([*shown, *([f"and {len(one.classes) - len(shown)} more"] if one.classes[len(shown) :] else [])])
    task = f"{one.task}, ensemble of {one.members}" if one.members > 1 else one.task
    is_own = one.task == "backbone" or not one.backbone_sha256
    weights = f"{one.backbone_sha256[:DIGITS]}{'' if is_own or one.has_all_weights else ', not included'}" or "own"
    validation = "" if one.validation is None else f"{one.validation:.3f}"
    size = round(one.num_bytes / 1e6, 1)
    return [one.name, task, one.backbone, weights, one.peft, one.head, classes, size, validation, _score(one)]


def _score(one: ListedModel) -> str:
    texts = []
    for score in one.scores:
        names = [name for name in MAIN if score.metrics.get(name, {}).get("value") is not None]
        texts += [f"{names[0]} {score.metrics[names[0]]['value']:.3f} ({score.report})"] if names else []
    return "; ".join(texts)


models = Models()
