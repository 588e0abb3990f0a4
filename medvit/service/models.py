"""Models in force: each is pinned by its hash when the service starts, and changes only when it is reloaded."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from medvit import __version__
from medvit.artifacts import Checkpoint
from medvit.errors import ConfigError
from medvit.inference.jobs import names_of
from medvit.inference.operating_points import OperatingPoint
from medvit.inference.options import PredictionOptions
from medvit.inference.remote_job import RemoteJob
from medvit.service.database import Database
from medvit.service.options import PredictingConfig
from medvit.stage.registered import registered_version
from medvit.tasks import TaskName
from medvit.tracking import TrackingConfig
from medvit.tracking.model_registry import is_registered
from medvit.writers import Maker


@dataclass(frozen=True)
class PinnedModel:
    """Model in force: its name, the folder of its checkpoint, and the hash of the checkpoint when it was pinned."""

    name: str
    folder: str
    sha256: str
    version: str = ""
    """Registered version, such as pneumonia/3; empty for a folder."""


@dataclass(frozen=True)
class ModelsInForce:
    """Models in force together, under a token that changes with each reload."""

    pinned: tuple[PinnedModel, ...]
    token: str

    @property
    def hashes(self) -> dict[str, str]:
        """Return the hash of each model, by name."""
        return {one.name: one.sha256 for one in self.pinned}

    def jobs(self, options: PredictingConfig) -> Mapping[str, RemoteJob]:
        """Return the job of each model, which a worker process builds when it needs it."""
        return {one.name: _job(one, options, self.token) for one in self.pinned}


class Pins:
    """History of the models in force, in the database."""

    def __init__(self, database: Database, options: PredictingConfig, registry: str) -> None:
        self._database, self._options, self._registry = database, options, registry
        self.now = self.reload()

    def reload(self) -> ModelsInForce:
        """Pin the models that the options name now; return them.

        Raises:
            MedvitError: If a model cannot be found or read; the models in force remain.
        """
        return self._put(pinned(self._options, self._registry))

    def roll_back(self) -> ModelsInForce:
        """Pin the models that were in force before; return them.

        Raises:
            ConfigError: If there are none, or their folders changed.
        """
        row = self._database.row("SELECT models FROM pins ORDER BY id DESC LIMIT 1 OFFSET 1")
        if row is None:
            raise ConfigError("no other models were in force before")
        before = tuple(PinnedModel(**one) for one in json.loads(row["models"]))
        for one in before:
            if not Path(one.folder).is_dir() or Checkpoint.load(Path(one.folder)).hash != one.sha256:
                raise ConfigError(f"the checkpoint of {one.name} was changed or removed since it was in force")
        return self._put(before)

    def _put(self, models: tuple[PinnedModel, ...]) -> ModelsInForce:
        text = json.dumps([vars(one) for one in models])
        last = self._database.row("SELECT models FROM pins ORDER BY id DESC LIMIT 1")
        if last is None or last["models"] != text:
            self._database.write("INSERT INTO pins (models, at) VALUES (?, ?)", text, time.time())
        self.now = ModelsInForce(models, uuid.uuid4().hex)
        return self.now


def pinned(options: PredictingConfig, registry: str) -> tuple[PinnedModel, ...]:
    """Return the models that the options name, with the hashes that their checkpoints have now.

    Raises:
        ConfigError: If a rule is for another model, or a model is of whole slides.
        CheckpointError: If a checkpoint cannot be read.
    """
    tracking = TrackingConfig(uri=registry)
    versions = {one: registered_version(one, tracking) for one in options.checkpoint if is_registered(one)}
    plain = [one for one in options.checkpoint if one not in versions]
    names = dict(zip(plain, names_of(plain), strict=True)) if plain else {}
    names |= {one: version.name for one, version in versions.items()}
    if len(set(names.values())) < len(options.checkpoint):
        raise ConfigError("two models of `checkpoint` have the same name; rename a folder")
    unknown = sorted(options.rules.keys() - names.values())
    if unknown:
        raise ConfigError(f"rules has {', '.join(unknown)}; the models are {', '.join(names.values())}")
    found = []
    for one in options.checkpoint:
        folder = (versions[one].folder if one in versions else one).expanduser().resolve()
        checkpoint = Checkpoint.load(folder).require(*get_args(TaskName))
        version = str(versions[one]) if one in versions else ""
        found.append(PinnedModel(names[one], str(folder), checkpoint.hash, version))
    return tuple(found)


def _job(model: PinnedModel, options: PredictingConfig, token: str) -> RemoteJob:
    own: PredictionOptions = options.for_model(model.name, Path(model.folder))
    maker = Maker(__version__, model.sha256, None, model.name, options.series_number, own.settings())
    points: Mapping[str, tuple[OperatingPoint, ...]] = {}
    return RemoteJob(token, own, {model.name: maker}, points)
