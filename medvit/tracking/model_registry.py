"""MLflow model registry: versions of a model with their checkpoints, found again by version or alias."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medvit.errors import ConfigError, TrackingError
from medvit.tracking.options import TrackingConfig, absolute
from medvit.tracking.sender import experiment_of, first_line, import_client

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

SCHEME = "models:/"
SHA256_TAG, VERDICT_TAG = "medvit.weights_sha256", "medvit.verdict"
"""Tags of a version: the hash of the weights of its checkpoint, and the verdict of the report that it came from."""
CHECKPOINT = "checkpoint"
"""Name of the artifact of a logged model that contains the checkpoint."""

_LOCATION = re.compile(r"models:/(?P<name>[^/@:]+)(?:/(?P<version>[0-9]+)|@(?P<alias>[^/@]+))")


@dataclass(frozen=True)
class ModelVersion:
    """Version of a registered model, with the folder of its checkpoint on this machine."""

    name: str
    version: str
    folder: Path
    sha256: str
    """Hash of the weights when the version was registered."""

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


def is_registered(location: str | Path) -> bool:
    """Return whether a location names a registered model, as models:/NAME/VERSION or models:/NAME@ALIAS."""
    return str(location).startswith(SCHEME)


def register_version(
    config: TrackingConfig, name: str, checkpoint: Path, code: Path, tags: Mapping[str, str], alias: str = ""
) -> str:
    """Store a checkpoint as a logged model that the file `code` defines, and register it; return the new version.

    Raises:
        TrackingError: If the store cannot be reached, or refuses.
    """
    make = import_client()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    before = mlflow.get_tracking_uri()
    try:
        client = make(tracking_uri=absolute(config.uri))
        mlflow.set_tracking_uri(absolute(config.uri))
        mlflow.set_experiment(experiment_id=experiment_of(client, config.experiment, absolute(config.uri)))
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(code),
            artifacts={CHECKPOINT: str(checkpoint.absolute())},
            signature=_signature(),
            input_example=_example(),
            pip_requirements=["medvit"],
        )
        _create(client, name)
        version = str(client.create_model_version(name, logged.model_uri, tags=dict(tags)).version)
        if alias:
            client.set_registered_model_alias(name, alias, version)
    except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
        raise TrackingError(f"MLflow at {config.uri} does not register the model: {first_line(error)}") from error
    finally:
        mlflow.set_tracking_uri(before)
    return version


def find_version(config: TrackingConfig, location: str | Path, cache: Path) -> ModelVersion:
    """Return the version that models:/NAME/VERSION or models:/NAME@ALIAS names, with its checkpoint on this machine.

    If the store is on this machine, the checkpoint is used where it is; otherwise, it is fetched into `cache` once.

    Raises:
        ConfigError: If the location has another form.
        TrackingError: If the store cannot be reached, has no such version, or the version was not made by medvit.
    """
    match = _LOCATION.fullmatch(str(location))
    if match is None:
        raise ConfigError(f"{location} does not name a model; expected models:/NAME/VERSION or models:/NAME@ALIAS")
    make = import_client()
    try:
        client = make(tracking_uri=absolute(config.uri))
        name, alias = match["name"], match["alias"]
        found = (
            client.get_model_version_by_alias(name, alias)
            if alias
            else client.get_model_version(name, match["version"])
        )
        folder = _local(client, found.name, found.version, cache)
    except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
        raise TrackingError(f"{location} is not in MLflow at {config.uri}: {first_line(error)}") from error
    checkpoints = sorted((folder / "artifacts").glob("*"))
    if SHA256_TAG not in found.tags or len(checkpoints) != 1:
        raise TrackingError(f"{location} was not registered by medvit; expected a version made by `medvit register`")
    return ModelVersion(found.name, str(found.version), checkpoints[0], found.tags[SHA256_TAG])


def _local(client: MlflowClient, name: str, version: str, cache: Path) -> Path:
    """Return the folder of a logged model on this machine."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    from mlflow.artifacts import download_artifacts

    location = client.get_model_version_download_uri(name, version)
    parts = urlsplit(location)
    if parts.scheme in ("", "file"):
        return Path(url2pathname(parts.path))
    target = cache / name / str(version)
    if not target.is_dir():
        partial = target.with_name(f"{target.name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        download_artifacts(f"{SCHEME}{name}/{version}", dst_path=str(partial), tracking_uri=client.tracking_uri)
        partial.replace(target)
    return target


def _create(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _example() -> pd.DataFrame:
    """Return an example of a request: one study, by the name of its folder."""
    import pandas as pd

    return pd.DataFrame({"path": ["study-0001"]})


def _signature() -> ModelSignature:
    """Return the signature of a served model: a folder below MEDVIT_SERVE_ROOT, or the bytes of a zip archive."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    columns = [ColSpec(DataType.string, "path", required=False), ColSpec(DataType.binary, "zip", required=False)]
    return ModelSignature(Schema(columns))
