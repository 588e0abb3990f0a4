"""Registered models as inputs of a stage: models:/NAME@ALIAS is replaced by the folder of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from medvit.errors import CheckpointError
from medvit.stage.config import StageConfig
from medvit.tracking import TrackingConfig
from medvit.tracking.model_registry import ModelVersion, digest_of_files, find_version, is_registered

MODEL_CACHE = Path("~/.medvit/models")
"""Folder for checkpoints of registered models that are fetched from a server."""

AnyConfig = TypeVar("AnyConfig", bound=StageConfig)


def registered_version(location: Path, tracking: TrackingConfig) -> ModelVersion:
    """Return the version of a registered model, whose files are on this machine.

    Raises:
        CheckpointError: If the files of the version are not those that were registered.
        MedvitError: As in `find_version`.
    """
    found = find_version(tracking, location, MODEL_CACHE.expanduser())
    if digest_of_files(found.folder) != found.files_sha256:
        raise CheckpointError(
            f"the files of {location} are not those that were registered; register the model again, or restore them"
        )
    return found


def with_registered(config: AnyConfig) -> tuple[AnyConfig, list[ModelVersion]]:
    """Return a config in which registered models (models:/NAME@ALIAS) are replaced by folders, and their versions.

    Raises:
        CheckpointError: If the files of a version are not those that were registered.
        MedvitError: As in `find_version`.
    """
    versions: list[ModelVersion] = []

    def resolved(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(resolved, value))
        if not isinstance(value, Path) or not is_registered(value):
            return value
        found = registered_version(value, config.tracking)
        versions.append(found)
        return found.folder

    values = {name: resolved(getattr(config, name)) for name in type(config).model_fields}
    return (config.model_copy(update=values) if versions else config), versions
