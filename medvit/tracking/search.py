"""Texts of an MLflow store for an audit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medvit.errors import TrackingError
from medvit.tracking.options import TrackingConfig
from medvit.tracking.sender import first_line, import_client

MAX_RUNS = 50_000
"""Maximum number of runs of one experiment in a request to MLflow."""


def holds_runs(file: Path, *, besides: str | None) -> bool:
    """Return whether an SQLite store contains a run other than the run with the ID `besides`.

    The result is also True if the file is not an MLflow database.
    """
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            found = connection.execute("SELECT 1 FROM runs WHERE run_uuid IS NOT ? LIMIT 1", (besides,)).fetchone()
        except sqlite3.Error:
            return True
    return found is not None


def num_experiments(config: TrackingConfig) -> int:
    """Return the number of experiments of a store, which shows that the store answers.

    Raises:
        TrackingError: If the store cannot be reached.
    """
    make = import_client()
    try:
        return len(make(tracking_uri=config.uri).search_experiments())
    except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
        raise TrackingError(f"MLflow at {config.uri} cannot be reached: {first_line(error)}") from error


def local_artifacts(config: TrackingConfig, runs: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """Return the folders with the artifacts of runs on this machine, and a line for each run whose artifacts are not.

    Raises:
        TrackingError: If the store cannot be reached.
    """
    make = import_client()
    from mlflow.exceptions import MlflowException

    found: dict[str, Path] = {}
    elsewhere: list[str] = []
    try:
        client = make(tracking_uri=config.uri)
        for run_id in runs:
            try:
                parts = urlsplit(client.get_run(run_id).info.artifact_uri)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                elsewhere.append(f"the MLflow run {run_id} is not in {config.uri}")
                continue
            if parts.scheme in ("", "file"):
                found[run_id] = Path(url2pathname(parts.path))
            else:
                elsewhere.append(f"the files of the MLflow run {run_id} are not on this machine")
    except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
        raise TrackingError(f"MLflow at {config.uri} cannot be searched: {first_line(error)}") from error
    return found, elsewhere


def output_of(config: TrackingConfig, run_id: str) -> str:
    """Return the output folder of a run; empty if the store has no such run, or the run has no output.

    Raises:
        TrackingError: If the store cannot be reached.
    """
    make = import_client()
    from mlflow.exceptions import MlflowException

    try:
        return str(make(tracking_uri=config.uri).get_run(run_id).data.tags.get("medvit.output", ""))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return ""
        raise TrackingError(f"MLflow at {config.uri} cannot be searched: {first_line(error)}") from error
    except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
        raise TrackingError(f"MLflow at {config.uri} cannot be searched: {first_line(error)}") from error


def recorded(config: TrackingConfig, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield all texts of a store, each with its location; artifacts are downloaded into `folder`.

    Raises:
        TrackingError: If the store cannot be reached.
    """
    make = import_client()
    from mlflow.artifacts import download_artifacts

    try:
        client = make(tracking_uri=config.uri)
        for experiment in client.search_experiments():
            yield "an experiment", f"{experiment.name} {experiment.tags}"
            for run in client.search_runs([experiment.experiment_id], max_results=MAX_RUNS):
                yield f"run {run.info.run_id}", f"{run.info.run_name} {run.data.to_dictionary()} {run.inputs}"
                target = folder / run.info.run_id
                target.mkdir()
                if client.list_artifacts(run.info.run_id):
                    download_artifacts(run_id=run.info.run_id, dst_path=str(target), tracking_uri=config.uri)
    except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
        raise TrackingError(f"MLflow at {config.uri} cannot be searched: {first_line(error)}") from error
