"""Sender of a journal to an MLflow store; records that the store has received are not sent again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.errors import TrackingError
from medvit.files.lock import LockedError, wait_for
from medvit.tracking.journal import CHILD, READ_AT_ONCE, Journal, Record, State
from medvit.tracking.names import mlflow_name
from medvit.tracking.options import ARTIFACTS, absolute, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("medvit")

RUN_TAG = "medvit.run"
"""Tag of a run with the identifier of its journal."""
PARENT_TAG = "mlflow.parentRunId"
"""Tag of a child run with the run that it is part of; the MLflow page shows it below that run."""
INPUT_OF, ELSEWHERE = "medvit.parent.", "medvit.parent_elsewhere."
"""Beginnings of the tags with the run that made an input: in this store, or in another one."""
SHARED_TAGS = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit", "medvit.stage")
"""Tags of a run that its child runs get, too."""
KIND_TAG = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment, with which the MLflow page shows runs and their metrics first, not traces of language models.
"""
MAX_METRICS, MAX_OTHERS, MAX_VALUE, MAX_TAG = 500, 100, 6000, 8000
"""Maximum metrics and other records per request, and characters per parameter and tag (mlflow.utils.validation)."""
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")
"""Error codes for records that a store will never accept."""
WAIT_FOR_TABLES_S = 60.0


def import_client() -> type[MlflowClient]:
    """Return the client of MLflow, whose import takes a second or two."""
    # MLflow reports usage to its makers unless this is set before its import.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    # By default it retries a server for minutes; here the caller retries.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs a traceback where we log a sentence
    return MlflowClient


class StopSendingError(Exception):
    """Error raised when the journal no longer belongs to this sender."""


class Sender:
    """Sender of one journal to one store; `is_current` returns whether the sender still owns the journal."""

    def __init__(
        self, journal: Journal, uri: str, experiment: str, is_current: Callable[[], bool] = lambda: True
    ) -> None:
        self.journal, self.uri, self.experiment = journal, absolute(uri), experiment
        self._is_current = is_current
        self._client: MlflowClient | None = None
        self._state = State(self.uri, experiment)
        self._warned: set[str] = set()

    @property
    def run_id(self) -> str | None:
        """ID of the run in the store; None before the store has answered."""
        return self._state.run_id

    def connect(self) -> None:
        """Find the run of the journal in the store, or create it there; do nothing if already connected.

        Raises:
            Exception: Of any kind that the store raises.
        """
        if self._client is not None:
            return
        make = import_client()
        with _alone(self.uri):
            client = make(tracking_uri=self.uri)
            self._state = self._found(client) or self._created(client)
        if self._state.records:
            client.update_run(self._state.run_id, status="RUNNING")
        self._client = client

    def send(self) -> bool:
        """Send the records that the store has not received; return whether the store then has all records.

        Raises:
            Exception: Of any kind that the store raises; records sent before are not sent again.
        """
        while found := list(islice(self.journal.read(self._state.records), READ_AT_ONCE)):
            for batch, end in _batches(found):
                self._send(batch)
                self._advance(records=end)
        self._send_files()
        rest = (self.journal.read(self._state.records), self.journal.read(self._state.files, files=True))
        return not any(True for records in rest for _ in records)

    def end_killed(self) -> None:
        """Mark a run whose process was killed."""
        self._end("KILLED")

    @property
    def _connected(self) -> MlflowClient:
        assert self._client is not None
        return self._client

    def _found(self, client: MlflowClient) -> State | None:
        """Return the state of sending if the run in it can be continued, else None.

        It can be continued if the run was begun in this store and experiment, still exists there and is not deleted.
        """
        from mlflow.exceptions import MlflowException

        state = self.journal.state()
        if state is None or state.run_id is None or (state.uri, state.experiment) != (self.uri, self.experiment):
            return None
        try:
            run = client.get_run(state.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return state if run.info.lifecycle_stage == "active" else None

    def _created(self, client: MlflowClient) -> State:
        identifier = experiment_of(client, self.experiment, self.uri)
        before = client.search_runs([identifier], f"tags.`{RUN_TAG}` = '{self.journal.key}'", max_results=1)
        if before:
            run_id = before[0].info.run_id
        else:
            stage = next((str(record["stage"]) for record, _, _ in self.journal.read(0) if "stage" in record), "")
            tags = {"medvit.stage": stage, RUN_TAG: self.journal.key}
            run_id = client.create_run(identifier, run_name=stage, tags=tags).info.run_id
        self._state = State(self.uri, self.experiment, run_id)
        self._write_state()
        return self._state

    def _advance(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        self._write_state()

    def _write_state(self) -> None:
        with self.journal.lock:
            if not self._is_current():
                raise StopSendingError
            self.journal.write_state(self._state)

    def _send(self, batch: Sequence[Record]) -> None:
        """Send records in one request; if the store refuses them, send them one by one."""
        try:
            self._log(batch)
        except Exception:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
            for record in (single for several in batch for single in _singles(several)):
                try:
                    self._log([record])
                except Exception as error:
                    self._pass_over(record["kind"], error)

    def _log(self, batch: Sequence[Record]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        first = batch[0]
        if first["kind"] == "dataset":
            self._log_dataset(first)
        elif first["kind"] == "child":
            self._begin_child(first)
        elif first["kind"] == "status" and CHILD in first:
            self._connected.set_terminated(self._run_of(first), first["status"])
        elif first["kind"] == "status":
            self._end(first["status"])
        elif first["kind"] in ("metrics", "params", "tags"):
            metrics, params, tags = [], dict[str, str](), dict[str, str]()
            for record in batch:
                values = {mlflow_name(name): value for name, value in record["values"].items()}
                if record["kind"] == "metrics":
                    metrics += [Metric(name, value, record["time"], record["step"]) for name, value in values.items()]
                elif record["kind"] == "params":
                    params |= {name: value[:MAX_VALUE] for name, value in values.items()}
                else:
                    tags |= {name: value[:MAX_TAG] for name, value in values.items()}
            tags = self._with_known_parents(tags)
            self._connected.log_batch(
                self._run_of(first),
                metrics,
                [Param(name, value) for name, value in params.items()],
                [RunTag(name, value) for name, value in tags.items()],
            )

    def _run_of(self, record: Record) -> str:
        """Return the ID of the run, or of the child run, that a record belongs to."""
        run_id = self._state.children[record[CHILD]] if CHILD in record else self._state.run_id
        assert run_id is not None, "it is connected"
        return run_id

    def _begin_child(self, record: Record) -> None:
        """Find the child run of a record in the store, or create it below the run."""
        key, client = record[CHILD], self._connected
        known = self._state.children.get(key)
        if known is not None:
            client.update_run(known, status="RUNNING")
            return
        parent = client.get_run(self._state.run_id)
        own = f"{self.journal.key}.{key}"
        before = client.search_runs([parent.info.experiment_id], f"tags.`{RUN_TAG}` = '{own}'", max_results=1)
        if before:
            made = before[0]
        else:
            shared = {name: parent.data.tags[name] for name in SHARED_TAGS if name in parent.data.tags}
            tags = {**shared, RUN_TAG: own, PARENT_TAG: parent.info.run_id}
            name = f"{record['name']}, {parent.info.run_name}"
            made = client.create_run(parent.info.experiment_id, run_name=name, tags=tags)
        self._advance(children={**self._state.children, key: made.info.run_id})

    def _end(self, status: str) -> None:
        """End the run, and those of its child runs that have not ended."""
        client = self._connected
        for child in self._state.children.values():
            if client.get_run(child).info.status == "RUNNING":
                client.set_terminated(child, status)
        client.set_terminated(self._state.run_id, status)

    def _with_known_parents(self, tags: dict[str, str]) -> dict[str, str]:
        """Return tags in addition to which runs that made inputs, but are not in this store, have tags of their own."""
        missing = {
            ELSEWHERE + name.removeprefix(INPUT_OF): value
            for name, value in tags.items()
            if self._is_elsewhere(name, value)
        }
        return tags | missing

    def _is_elsewhere(self, tag: str, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        if not tag.startswith(INPUT_OF):
            return False
        try:
            self._connected.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            log.info(
                "the run %s, which made the %s, is not in the MLflow store %s: it is recorded in the tag %s",
                run_id,
                tag.removeprefix(INPUT_OF),
                self.uri,
                ELSEWHERE + tag.removeprefix(INPUT_OF),
            )
            return True
        return False

    def _log_dataset(self, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        folder, columns, profile = (record.get(name) for name in ("folder", "columns", "profile"))
        dataset = Dataset(
            name=record["name"][:500],
            digest=record["digest"][:36],
            source_type="local" if folder else "medvit",
            source=json.dumps({"uri": folder}) if folder else "{}",
            schema=json.dumps({"mlflow_colspec": columns}) if columns else None,
            profile=json.dumps(profile) if profile else None,
        )
        tagged = DatasetInput(dataset, [InputTag("mlflow.data.context", record["context"])])
        self._connected.log_inputs(self._run_of(record), datasets=[tagged])

    def _pass_over(self, kind: str, error: Exception) -> None:
        """Log that a record is skipped, because the store will never accept it; re-raise any other error."""
        if getattr(error, "error_code", None) not in REFUSALS:
            raise error
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("MLflow refused some of the %s: %s", kind, first_line(error))

    def _send_files(self) -> None:
        """Send files. If a file cannot be sent, it and all later files are retried later.

        Other records do not wait for files.
        """
        failed: list[Exception] = []
        for start in self._state.postponed:
            record, _, _ = next(self.journal.read(start, files=True))
            if self._has_sent(record, failed):
                self._advance(postponed=tuple(one for one in self._state.postponed if one != start))
        for record, start, end in self.journal.read(self._state.files, files=True):
            postponed = self._state.postponed if self._has_sent(record, failed) else (*self._state.postponed, start)
            self._advance(files=end, postponed=postponed)
        if self._state.records > self._state.files:  # without an earlier file the search is not repeated
            self._advance(files=self._state.records)
        if failed:
            raise failed[0]

    def _has_sent(self, record: Record, failed: list[Exception]) -> bool:
        """Send the file of a record; return whether it is done, because the store received or finally refused it.

        If sending fails otherwise, the error is added to `failed`. If there is an error in `failed` already, nothing is
        sent, and the file waits for the next attempt.
        """
        if failed:
            return False
        path = self.journal.path_of(record)
        try:
            if not path.exists():
                self._pass_over_missing(path)
                return True
            self._upload(path, record)
        except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
            moved = self.journal.path_of(record)
            if moved != path:  # the run's folder got its final name meanwhile
                return self._has_sent(record, failed)
            if getattr(error, "error_code", None) in REFUSALS:
                self._pass_over("files", error)
                return True
            failed.append(error)
            return False
        return True

    def _upload(self, path: Path, record: Record) -> None:
        send = self._connected.log_artifacts if path.is_dir() else self._connected.log_artifact
        send(self._run_of(record), str(path), record["folder"] or None)

    def _pass_over_missing(self, path: Path) -> None:
        log.warning("MLflow does not receive %s: the file is no longer in %s", path.name, path.parent)


def experiment_of(client: MlflowClient, name: str, uri: str) -> str:
    """Return the identifier of an experiment, which is created if missing.

    Raises:
        TrackingError: If the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifact_folder(uri), tags=KIND_TAG))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another run has created it meanwhile
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the experiment {name!r} was deleted in the MLflow store; restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or set tracking.experiment"
        )
    return str(found.experiment_id)


def _artifact_folder(uri: str) -> str | None:
    """Return the artifact folder next to an SQLite file; None for other stores, which choose it themselves."""
    database = sqlite_file(uri)
    return None if database is None else (database.parent / ARTIFACTS).as_uri()


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Return a context with a lock, so that only one process at a time creates the tables of an SQLite store."""
    database = sqlite_file(uri)
    if database is None:
        yield
        return
    path = database.with_name(f".{database.name}.lock")
    try:
        lock = wait_for(path, "the start", timeout_s=WAIT_FOR_TABLES_S)
    except (LockedError, OSError):  # as in a read-only folder, where no tables are created
        yield
        return
    try:
        yield
    finally:
        lock.release(path)


def _batches(found: Sequence[tuple[Record, int, int]]) -> Iterator[tuple[list[Record], int]]:
    """Yield batches of records for one request each, with the byte position in the journal where the batch ends."""
    batch: list[Record] = []
    sizes, end = {"metrics": 0, "params": 0, "tags": 0}, 0
    limits = {"metrics": MAX_METRICS, "params": MAX_OTHERS, "tags": MAX_OTHERS}
    for record, _, record_end in found:
        kind, size = record["kind"], len(record.get("values", ()))
        is_like = batch[:1] != [] and batch[0]["kind"] in sizes and batch[0].get(CHILD) == record.get(CHILD)
        fits = kind in sizes and is_like and sizes[kind] + size <= limits[kind]
        if batch and not fits:
            yield batch, end
            batch, sizes = [], dict.fromkeys(sizes, 0)
        batch.append(record)
        end = record_end
        if kind in sizes:
            sizes[kind] += size
    if batch:
        yield batch, end


def _singles(record: Record) -> list[Record]:
    values = record.get("values")
    if values is None:
        return [record]
    return [{**record, "values": {name: value}} for name, value in values.items()]


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
