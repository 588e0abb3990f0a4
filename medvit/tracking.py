"""MLflow tracking: parameters, metrics, pictures and the lineage of a stage; nothing else imports it.

The default store is a SQLite file in the current directory. Metrics are sent in batches, so that tracking does not slow
training. With tracking off, the same calls do nothing.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator

from medvit.config import Config, Tree
from medvit.errors import TrackingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

log = logging.getLogger("medvit")

ARTIFACTS = "mlartifacts"
"""Folder of artifacts beside a SQLite store."""
MAX_RUNS = 50_000
"""Runs of one experiment that MLflow gives at once."""
BATCH = 200
"""Metrics kept back before they are sent."""


def _without_password(uri: str) -> str:
    if urlsplit(uri).password:
        raise ValueError(
            "the URI holds a password, which would be written into configs and runs; "
            "give it in the environment, as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return uri


class TrackingConfig(Config):
    """Where runs are recorded."""

    enabled: bool = True
    """Record this stage in MLflow."""
    uri: Annotated[str, AfterValidator(_without_password)] = "sqlite:///mlflow.db"
    """MLflow tracking URI: a SQLite file, a folder or a server; a password belongs in the environment."""
    experiment: str = "medvit"
    """MLflow experiment the run belongs to."""


class Tracker:
    """A run that records nothing; the calls of every tracker."""

    run_id: str | None = None

    def params(self, tree: Tree) -> None:
        """Records options, nested keys with dots."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Records numbers of a step."""

    def tags(self, tags: Mapping[str, str]) -> None:
        """Marks the run."""

    def file(self, path: Path, folder: str = "") -> None:
        """Keeps a file, or all files of a folder, as artifact."""

    def text(self, text: str, name: str) -> None:
        """Keeps a text as artifact."""

    def figure(self, figure: Figure, name: str) -> None:
        """Keeps a picture as artifact."""

    def dataset(self, name: str, digest: str, context: str) -> None:
        """Names a dataset the run reads, by its digest."""

    def finish(self, status: str) -> None:
        """Ends the run as `FINISHED` or `FAILED`."""


class MlflowTracker(Tracker):
    """Records to an MLflow store; `resumes` continues an earlier run.

    A store that cannot be used is refused at the start. One that fails later costs its record, never the work: what it
    did not take is told once by kind, and metrics are sent again with the next ones.
    """

    def __init__(self, config: TrackingConfig, stage: str, resumes: str | None = None) -> None:
        # MLflow reports its use to its makers unless told not to, before it is imported.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ["DO_NOT_TRACK"] = "true"
        # By itself it tries a server that does not answer for minutes before it says so.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        from mlflow import MlflowClient

        self._waiting: list[Any] = []
        self._sent_at = BATCH
        self._told: set[str] = set()
        try:
            self._client: MlflowClient = MlflowClient(tracking_uri=config.uri)
            run = self._client.get_run(resumes) if resumes else self._create(config, stage)
            self._client.update_run(run.info.run_id, status="RUNNING")
        except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
            raise TrackingError(
                f"MLflow at {config.uri} cannot be used: {_first_line(error)}; "
                "set tracking.uri or tracking.enabled=false"
            ) from error
        self.run_id = run.info.run_id

    def _create(self, config: TrackingConfig, stage: str) -> Any:
        experiment = self._client.get_experiment_by_name(config.experiment)
        if experiment is None:
            identifier = self._client.create_experiment(
                config.experiment, artifact_location=_artifact_folder(config.uri)
            )
        else:
            identifier = experiment.experiment_id
        return self._client.create_run(identifier, run_name=stage, tags={"medvit.stage": stage})

    def params(self, tree: Tree) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:6000]) for key, value in _flatten(tree)]
        with self._telling("parameters"):
            for start in range(0, len(params), 100):
                self._client.log_batch(self._run, params=params[start : start + 100])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(_metric_name(name), float(value), now, step) for name, value in values.items()]
        if len(self._waiting) >= self._sent_at:
            self._send()

    def tags(self, tags: Mapping[str, str]) -> None:
        with self._telling("tags"):
            for key, value in tags.items():
                self._client.set_tag(self._run, key, value)

    def file(self, path: Path, folder: str = "") -> None:
        with self._telling("files"):
            if path.is_dir():
                self._client.log_artifacts(self._run, str(path), folder or None)
            else:
                self._client.log_artifact(self._run, str(path), folder or None)

    def text(self, text: str, name: str) -> None:
        with self._telling("texts"):
            self._client.log_text(self._run, text, name)

    def figure(self, figure: Figure, name: str) -> None:
        with self._telling("pictures"):
            self._client.log_figure(self._run, figure, name)

    def dataset(self, name: str, digest: str, context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=digest[:36], source_type="medvit", source="{}")
        tagged = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
        with self._telling("the dataset"):
            self._client.log_inputs(self._run, datasets=[tagged])

    def finish(self, status: str) -> None:
        self._send()
        with self._telling("the end of the run"):
            self._client.set_terminated(self._run, status)

    @property
    def _run(self) -> str:
        assert self.run_id is not None
        return self.run_id

    def _send(self) -> None:
        with self._telling("metrics"):
            while self._waiting:
                self._client.log_batch(self._run, metrics=self._waiting[:BATCH])
                self._waiting = self._waiting[BATCH:]
        self._sent_at = len(self._waiting) + BATCH

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
            if what not in self._told:
                self._told.add(what)
                log.warning("MLflow did not take %s (%s); the work goes on without", what, type(error).__name__)


def start(config: TrackingConfig, stage: str, resumes: str | None = None) -> Tracker:
    """A tracker for one run of a stage.

    Raises:
        TrackingError: If the store cannot be reached.
    """
    return MlflowTracker(config, stage, resumes) if config.enabled else Tracker()


def database(config: TrackingConfig) -> Path | None:
    """The SQLite file of a store, where it is one."""
    return Path(config.uri.removeprefix("sqlite:///")) if config.uri.startswith("sqlite:///") else None


def recorded(config: TrackingConfig, folder: Path) -> Iterator[tuple[str, str]]:
    """All texts that a store holds, each with the place it has there; artifacts are downloaded into `folder`.

    Raises:
        TrackingError: If the store cannot be reached.
    """
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    try:
        client = MlflowClient(tracking_uri=config.uri)
        for experiment in client.search_experiments():
            yield "an experiment", f"{experiment.name} {experiment.tags}"
            for run in client.search_runs([experiment.experiment_id], max_results=MAX_RUNS):
                yield f"run {run.info.run_id}", f"{run.info.run_name} {run.data.to_dictionary()} {run.inputs}"
                target = folder / run.info.run_id
                target.mkdir()
                if client.list_artifacts(run.info.run_id):
                    download_artifacts(run_id=run.info.run_id, dst_path=str(target), tracking_uri=config.uri)
    except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
        raise TrackingError(f"MLflow at {config.uri} cannot be searched: {_first_line(error)}") from error


def _artifact_folder(uri: str) -> str | None:
    """Beside a SQLite file; a server or a folder store keeps artifacts where it decides."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / ARTIFACTS).as_uri()


def _flatten(tree: Tree, prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        pairs += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs


def _metric_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
