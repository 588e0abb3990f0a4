"""MLflow model registry: versions of a model with their checkpoints, found again by version or alias."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.errors import ConfigError, TrackingError
from medvit.tracking.names import mlflow_name
from medvit.tracking.options import TrackingConfig, absolute
from medvit.tracking.sender import MAX_METRICS, experiment_of, first_line, import_client

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as FoundVersion
    from mlflow.models import ModelSignature

SCHEME = "models:/"
SHA256_TAG, FILES_TAG, VERDICT_TAG = "medvit.weights_sha256", "medvit.files_sha256", "medvit.verdict"
"""Tags of a version: the hash of the weights of its checkpoint, the hash of its files, and the verdict of its report.
"""
CHECKPOINT = "checkpoint"
"""Name of the artifact of a logged model that contains the checkpoint."""

OUTPUT_COLUMNS = {
    "request": "long",
    **dict.fromkeys(("status", "reason", "series", "class"), "string"),
    **dict.fromkeys(("probability", "volume_ml", "num_voxels", "value"), "double"),
    **dict.fromkeys(("model", "operating_point"), "string"),
    **dict.fromkeys(("threshold", "low", "high", "coverage", "entropy", "mutual_information", "spread"), "double"),
    **dict.fromkeys(("call", "in_set"), "string"),
}
"""Columns of the answer of a served model, and their types in MLflow."""

_LOCATION = re.compile(r"models:/(?P<name>[^/@:]+)(?:/(?P<version>[0-9]+)|@(?P<alias>[^/@]+))")


@dataclass(frozen=True)
class ModelVersion:
    """Version of a registered model, with the folder of its checkpoint on this machine."""

    name: str
    version: str
    folder: Path
    files_sha256: str
    """Hash of the files of the checkpoint when the version was registered (`digest_of_files`)."""

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


def is_registered(location: str | Path) -> bool:
    """Return whether a location names a registered model, as models:/NAME/VERSION or models:/NAME@ALIAS."""
    return str(location).startswith(SCHEME)


@dataclass(frozen=True)
class NewVersion:
    """Version to register: its checkpoint, the file `code` that defines the served model, and what describes it."""

    name: str
    checkpoint: Path
    code: Path
    task: str
    tags: Mapping[str, str]
    about: str
    """Description of the version in Markdown."""
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    """Metrics of the report, for the logged model."""
    dataset: tuple[str, str]
    """Name and digest of the evaluated dataset."""
    trained_by: str | None
    """Run that trained the model."""
    evaluated_by: str | None
    """Run that registers the model, to which MLflow adds the metrics, too."""


def register_version(config: TrackingConfig, new: NewVersion, alias: str = "") -> str:
    """Store a checkpoint as a logged model, and register it; return the new version.

    A version with the same tags, as of a run that was interrupted, is not made again.

    Raises:
        TrackingError: If the store cannot be reached, or refuses.
    """
    make = import_client()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        client = make(tracking_uri=absolute(config.uri))
        version = _same_version(client, new.name, new.tags)
        if not version:
            version = _made(client, config, new)
        if alias:
            client.set_registered_model_alias(new.name, alias, version)
    except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
        raise TrackingError(f"MLflow at {config.uri} does not register the model: {first_line(error)}") from error
    return version


def _made(client: MlflowClient, config: TrackingConfig, new: NewVersion) -> str:
    """Make a version from a new logged model; return its number."""
    with _fluent(config):
        model_id = _logged(client, config, new)
        _create(client, new.name, new.task)
        how: dict[str, Any] = {"tags": dict(new.tags), "description": new.about, "model_id": model_id}
        return str(client.create_model_version(new.name, f"{SCHEME}{model_id}", **how).version)


@contextmanager
def _fluent(config: TrackingConfig) -> Iterator[None]:
    """Return a context in which the functions of MLflow without a client use the store of a config."""
    import mlflow

    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")}
    uri_before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri(absolute(config.uri))
        yield
    finally:
        mlflow.set_tracking_uri(uri_before)
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value


def _logged(client: MlflowClient, config: TrackingConfig, new: NewVersion) -> str:
    """Store a logged model with its metrics; return its ID."""
    import mlflow
    from mlflow.entities import Metric

    model = client.create_logged_model(
        experiment_of(client, config.experiment, absolute(config.uri)),
        name=new.name,
        source_run_id=new.trained_by if _has_run(client, new.trained_by) else None,
        tags={"mlflow.source.name": "medvit register", "mlflow.source.type": "LOCAL"},
        params=dict(new.params),
        model_type=new.task,
    )
    mlflow.pyfunc.log_model(
        model_id=model.model_id,
        python_model=str(new.code),
        artifacts={CHECKPOINT: str(new.checkpoint.absolute())},
        model_config={FILES_TAG: new.tags[FILES_TAG]},
        signature=_signature(),
        input_example=_example(),
        pip_requirements=["medvit"],
    )
    if new.evaluated_by is not None and _has_run(client, new.evaluated_by):
        name, digest = new.dataset
        of = {
            "model_id": model.model_id,
            "run_id": new.evaluated_by,
            "dataset_name": name,
            "dataset_digest": digest[:36],
        }
        now = int(time.time() * 1000)
        metrics = [Metric(mlflow_name(key), value, now, 0, **of) for key, value in new.metrics.items()]
        for start in range(0, len(metrics), MAX_METRICS):
            client.log_batch(new.evaluated_by, metrics[start : start + MAX_METRICS])
    return str(model.model_id)


def _has_run(client: MlflowClient, run_id: str | None) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return run_id is not None and client.get_run(run_id) is not None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


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
        folder = _local(client, found, cache)
    except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
        raise TrackingError(f"{location} is not in MLflow at {config.uri}: {first_line(error)}") from error
    checkpoints = sorted((folder / "artifacts").glob("*"))
    if FILES_TAG not in found.tags or len(checkpoints) != 1:
        raise TrackingError(f"{location} was not registered by medvit; expected a version made by `medvit register`")
    return ModelVersion(found.name, str(found.version), checkpoints[0], found.tags[FILES_TAG])


def digest_of_files(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of all files of a checkpoint."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _same_version(client: MlflowClient, name: str, tags: Mapping[str, str]) -> str:
    """Return the newest version of a model that has the given tags; empty if there is no such version."""
    found = client.search_model_versions(f"name = '{name}'")
    same = [int(one.version) for one in found if {key: one.tags.get(key) for key in tags} == dict(tags)]
    return str(max(same)) if same else ""


def _local(client: MlflowClient, found: FoundVersion, cache: Path) -> Path:
    """Return the folder of a logged model on this machine."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    from mlflow.artifacts import download_artifacts

    location = client.get_model_version_download_uri(found.name, found.version)
    parts = urlsplit(location)
    if parts.scheme in ("", "file"):
        return Path(url2pathname(parts.path))
    target = cache / found.tags.get(FILES_TAG, f"{found.name}-{found.version}")
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache))
        location = f"{SCHEME}{found.name}/{found.version}"
        download_artifacts(location, dst_path=str(partial), tracking_uri=client.tracking_uri)
        try:
            partial.replace(target)
        except OSError:  # another process has fetched it meanwhile
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _create(client: MlflowClient, name: str, task: str) -> None:
    from mlflow.exceptions import MlflowException

    about = f"Models for {task}. Use a version in medvit as checkpoint=models:/{name}/VERSION, or models:/{name}@ALIAS."
    try:
        client.create_registered_model(name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _example() -> pd.DataFrame:
    """Return an example of a request: one study, by the name of its folder."""
    import pandas as pd

    return pd.DataFrame({"path": ["study-0001"]})


def _signature() -> ModelSignature:
    """Return the signature of a served model: a study as a folder or archive, or an array; and its predictions."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    kinds = {
        "path": DataType.string,
        "zip": DataType.string,
        "pixels": AnyType(),
        "spacing_mm": AnyType(),
        "dtype": DataType.string,
    }
    inputs = Schema([ColSpec(kind, name, required=False) for name, kind in kinds.items()])
    outputs = [ColSpec(kind, name, required=name in ("request", "status")) for name, kind in OUTPUT_COLUMNS.items()]
    return ModelSignature(inputs, Schema(outputs))
