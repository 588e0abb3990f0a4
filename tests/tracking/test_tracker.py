"""Records of a stage arrive in a real MLflow store, and a store neither stops nor delays the work."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from mlflow import MlflowClient

from medvit.errors import ConfigError, TrackingError
from medvit.tracking import (
    FOLDER,
    MlflowTracker,
    Tracker,
    TrackingConfig,
    database,
    mlflow_name,
    recorded,
    send,
    start,
)
from tests.processes.forked import Forked, say

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    return sqlite(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="module")
def client(config: TrackingConfig) -> MlflowClient:
    return MlflowClient(tracking_uri=config.uri)


@pytest.fixture
def silent() -> Iterator[str]:
    """URI of a server that takes connections and never answers."""
    released = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            released.wait()

        do_POST = do_GET  # noqa: N815 (a name of http.server)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    released.set()
    server.shutdown()


@cache
def fresh_store() -> bytes:
    """A database with the tables of MLflow, which takes seconds to make."""
    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").search_experiments()
        return (Path(folder) / "mlflow.db").read_bytes()


def sqlite(folder: Path, **options: object) -> TrackingConfig:
    (folder / "mlflow.db").write_bytes(fresh_store())
    tree = {"uri": f"sqlite:///{folder / 'mlflow.db'}", "experiment": "tests", "patience_s": 60} | options
    return TrackingConfig.parse(tree)


def tables_lost(folder: Path) -> None:
    """Remove the tables of a store that records are written to; the store still answers."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table in ("metrics", "latest_metrics", "params", "tags"):
            database.execute(f"ALTER TABLE {table} RENAME TO lost_{table}")


def tables_back(folder: Path) -> None:
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table in ("metrics", "latest_metrics", "params", "tags"):
            database.execute(f"ALTER TABLE lost_{table} RENAME TO {table}")


def test_a_run_holds_all_that_was_recorded(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    for folder in (work / "plots", elsewhere):
        folder.mkdir(parents=True)
        (folder / "card.md").write_text("# Card\n", encoding="utf-8")
    tracker = start(config, "finetune", work)
    assert isinstance(tracker, MlflowTracker)
    tracker.params({"optim": {"lr": 0.1}, "seed": 0, "long": "x" * 10_000})
    for step in range(5):
        tracker.metrics({"val/dice [mean]": step / 10}, step=step)
    tracker.tags({"medvit.kind": "test"})
    tracker.file(elsewhere / "card.md")
    tracker.file(work / "plots", "folder")
    shutil.rmtree(elsewhere)
    tracker.text("seed: 0\n", "config.yaml")
    tracker.figure(Figure(), "pictures/empty.png")
    tracker.dataset("phantoms", "ab" * 32, "finetune")
    tracker.finish("FINISHED")
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "finetune"
    assert run.data.params["optim.lr"] == "0.1"
    assert run.data.tags["medvit.kind"] == "test"
    history = client.get_metric_history(tracker.run_id, mlflow_name("val/dice [mean]"))
    assert [metric.value for metric in history] == [0, 0.1, 0.2, 0.3, 0.4]
    assert run.inputs.dataset_inputs[0].dataset.name == "phantoms"
    assert {artifact.path for artifact in client.list_artifacts(tracker.run_id)} == {
        "card.md",
        "folder",
        "config.yaml",
        "pictures",
    }
    assert [path.name for path in work.iterdir()] == ["plots"], "nothing is left beside what the run made"


def test_no_metric_is_lost(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    tracker = start(config, "pretrain", tmp_path)
    for step in range(1503):
        tracker.metrics({"loss": float(step)}, step=step)
    tracker.finish("FAILED")
    assert client.get_run(tracker.run_id).info.status == "FAILED"
    assert len(client.get_metric_history(tracker.run_id, "loss")) == 1503


def test_an_unfinished_run_goes_on(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    first = start(config, "pretrain", tmp_path)
    first.metrics({"loss": 1.0}, step=0)
    first.finish("FAILED")
    second = start(config, "pretrain", tmp_path)
    second.metrics({"loss": 0.5}, step=1)
    assert client.get_run(first.run_id).info.status == "RUNNING"
    second.finish("FINISHED")
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "FINISHED"
    assert len(client.get_metric_history(first.run_id, "loss")) == 2


def test_a_run_that_goes_on_with_another_store_is_whole_there(config: TrackingConfig, tmp_path: Path) -> None:
    work, other = tmp_path / "work", sqlite(tmp_path)
    work.mkdir()
    first = start(config, "pretrain", work)
    first.params({"seed": 3})
    first.metrics({"loss": 1.0}, step=0)
    first.text("kept", "note.txt")
    first.finish("FAILED")
    second = start(other, "pretrain", work)
    second.metrics({"loss": 0.5}, step=1)
    second.finish("FINISHED")
    assert second.run_id != first.run_id
    found = MlflowClient(tracking_uri=other.uri)
    assert len(found.get_metric_history(second.run_id, "loss")) == 2
    assert found.get_run(second.run_id).data.params == {"seed": "3"}
    assert found.get_run(second.run_id).info.status == "FINISHED"
    assert [artifact.path for artifact in found.list_artifacts(second.run_id)] == ["note.txt"]


def test_a_run_that_was_deleted_meanwhile_is_made_anew(
    config: TrackingConfig, client: MlflowClient, tmp_path: Path
) -> None:
    first = start(config, "pretrain", tmp_path)
    first.metrics({"loss": 1.0}, step=0)
    first.finish("FAILED")
    client.delete_run(first.run_id)
    second = start(config, "pretrain", tmp_path)
    second.finish("FINISHED")
    assert len(client.get_metric_history(second.run_id, "loss")) == 1


def test_what_a_failing_store_does_not_take_is_sent_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, work = sqlite(tmp_path), tmp_path / "work"
    work.mkdir()
    (work / "card.md").write_text("# Card\n", encoding="utf-8")
    tracker = start(config, "pretrain", work)
    tables_lost(tmp_path)
    for step in range(700):
        tracker.metrics({"loss": float(step)}, step=step)
    tracker.params({"lr": 1.0})
    tracker.tags({"a": "b"})
    tracker.file(work / "card.md")
    tracker.finish("FINISHED")
    messages = [record.message for record in caplog.records if record.message.startswith("MLflow at")]
    assert len(messages) == 2, "one warning, and at the end the command that sends the rest"
    assert messages[-1].endswith(f"medvit sync runs={work}")
    with pytest.raises(TrackingError, match="cannot be used"):
        send(work)
    tables_back(tmp_path)
    sent = send(work.rename(tmp_path / "renamed"))
    found = MlflowClient(tracking_uri=config.uri)
    assert sent.run_id == tracker.run_id
    assert len(found.get_metric_history(sent.run_id, "loss")) == 700
    run = found.get_run(sent.run_id)
    assert (run.data.params["lr"], run.data.tags["a"], run.info.status) == ("1.0", "b", "FINISHED")
    assert [artifact.path for artifact in found.list_artifacts(sent.run_id)] == ["card.md"]
    assert not (tmp_path / "renamed" / FOLDER).exists()


def test_a_silent_server_costs_seconds_and_nothing_is_lost(silent: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    began = time.monotonic()
    tracker = start(TrackingConfig(uri=silent, patience_s=0.5), "pretrain", work)
    assert tracker.run_id is None
    slowest = 0.0
    for step in range(300):
        before = time.monotonic()
        tracker.metrics({"loss": float(step)}, step=step)
        slowest = max(slowest, time.monotonic() - before)
    tracker.finish("FINISHED")
    assert time.monotonic() - began < 5
    assert slowest < 0.05, "seconds of one call"
    config = sqlite(tmp_path)
    sent = send(work, config.uri)
    assert len(MlflowClient(tracking_uri=config.uri).get_metric_history(sent.run_id, "loss")) == 300


def test_a_deleted_experiment_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, work = sqlite(tmp_path), tmp_path / "work"
    work.mkdir()
    found = MlflowClient(tracking_uri=config.uri)
    found.delete_experiment(found.create_experiment("tests"))
    tracker = start(config, "ingest", work)
    tracker.metrics({"num": 1.0})
    tracker.finish("FINISHED")
    assert "the experiment 'tests' was deleted in the MLflow store; restore it" in caplog.text
    with pytest.raises(TrackingError, match="was deleted"):
        send(work)
    found.restore_experiment(found.get_experiment_by_name("tests").experiment_id)
    assert found.get_run(send(work).run_id).data.metrics == {"num": 1.0}


def test_a_store_that_cannot_be_used_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    work = tmp_path / "work"
    work.mkdir()
    tracker = start(TrackingConfig(uri=f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"), "ingest", work)
    tracker.finish("FINISHED")
    assert tracker.run_id is None
    assert f"medvit sync runs={work}" in caplog.text


def test_a_store_that_is_read_only_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, work = sqlite(tmp_path), tmp_path / "work"
    work.mkdir()
    MlflowClient(tracking_uri=config.uri).create_experiment("tests")
    uri = f"sqlite:///file:{tmp_path / 'mlflow.db'}?mode=ro&uri=true"
    tracker = start(TrackingConfig(uri=uri, experiment="tests"), "ingest", work)
    tracker.metrics({"num": 1.0})
    tracker.finish("FINISHED")
    assert f"medvit sync runs={work}" in caplog.text
    sent = send(work, config.uri)
    assert MlflowClient(tracking_uri=config.uri).get_run(sent.run_id).data.metrics == {"num": 1.0}


def test_a_run_that_was_killed_is_sent_as_such(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    tracker = start(config, "pretrain", tmp_path)
    tracker.metrics({"loss": 1.0}, step=0)
    with (tmp_path / FOLDER / "journal.jsonl").open("ab") as stream:
        stream.write(b'{"kind": "metr')  # the rest was never written
    copy = shutil.copytree(tmp_path, tmp_path.with_name("killed"))
    tracker.finish("FINISHED")
    sent = send(copy)
    assert client.get_run(sent.run_id).info.status == "KILLED"
    again = start(config, "pretrain", copy)
    again.metrics({"loss": 2.0}, step=1)
    again.finish("FINISHED")
    assert again.run_id == sent.run_id
    assert len(client.get_metric_history(sent.run_id, "loss")) == 2


ODD_NAMES = (
    "<5 mm",
    ">5 mm",
    "_5 mm",
    "a/b",
    "a//b",
    "a/",
    "/a",
    "",
    ".",
    "..",
    "a/../b",
    "..a",
    "Tumor (core), x",
    "ü",
)
ODD_NAMES += ("u\u0308", "_x003C_5 mm", "x" * 300, "x" * 301, "codes.a=b", "\n", "\0", "a:b", "100 %", "µm²")


def test_no_name_is_lost_and_no_two_become_one(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    assert len({mlflow_name(name) for name in ODD_NAMES}) == len(ODD_NAMES)
    tracker = start(config, "evaluate", tmp_path)
    tracker.metrics({name: float(number) for number, name in enumerate(ODD_NAMES)})
    tracker.params({name: number for number, name in enumerate(ODD_NAMES)})
    tracker.tags(dict.fromkeys(ODD_NAMES, "x"))
    tracker.finish("FINISHED")
    data = client.get_run(tracker.run_id).data
    assert [data.metrics[mlflow_name(name)] for name in ODD_NAMES] == list(range(len(ODD_NAMES)))
    assert [data.params[mlflow_name(name)] for name in ODD_NAMES] == [str(n) for n in range(len(ODD_NAMES))]
    assert {mlflow_name(name) for name in ODD_NAMES} <= data.tags.keys()


def test_names_that_mlflow_takes_stay_as_they_are() -> None:
    for name in ("optim.lr", "val/dice mean", "head_1.loss", "test.dice-x.low", "größe"):
        assert mlflow_name(name) == name


def test_random_names_are_valid_and_apart(config: TrackingConfig) -> None:
    from mlflow.utils.validation import _validate_metric_name

    generator = np.random.default_rng(0)
    alphabet = list("ab/._ x0-<F2\u00fc\u0308")
    names = {"".join(generator.choice(alphabet, generator.integers(0, 9))) for _ in range(3000)}
    encoded = {mlflow_name(name) for name in names}
    assert len(encoded) == len(names)
    for name in encoded:
        _validate_metric_name(name)


def test_one_refused_parameter_costs_no_other(
    config: TrackingConfig, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = start(config, "ingest", tmp_path)
    tracker.params({"a": 1, "b": 1})
    tracker.finish("FAILED")
    again = start(config, "ingest", tmp_path)
    again.params({"a": 1, "b": 2, "c": 3})  # MLflow does not accept a second value of a parameter
    again.finish("FINISHED")
    assert client.get_run(again.run_id).data.params == {"a": "1", "b": "1", "c": "3"}
    assert "MLflow refused some of the params" in caplog.text
    assert not (tmp_path / FOLDER).exists()


def test_a_batch_too_large_for_one_request_is_sent_in_several(
    config: TrackingConfig, client: MlflowClient, tmp_path: Path
) -> None:
    tracker = start(config, "evaluate", tmp_path)
    tracker.params({f"p{number}": number for number in range(350)})
    tracker.metrics({f"m{number}": number for number in range(1200)})
    tracker.finish("FINISHED")
    data = client.get_run(tracker.run_id).data
    assert (len(data.params), len(data.metrics)) == (350, 1200)


def test_numbers_that_are_not_finite_are_recorded(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    tracker = start(config, "pretrain", tmp_path)
    tracker.metrics({"nan": float("nan"), "inf": float("inf"), "one": 1.0})
    tracker.finish("FINISHED")
    data = client.get_run(tracker.run_id).data
    assert np.isnan(data.metrics["nan"])
    assert data.metrics["one"] == 1.0
    assert data.metrics["inf"] > 1e300


def test_a_file_that_a_store_does_not_take_holds_up_no_metric(tmp_path: Path) -> None:
    config, work = sqlite(tmp_path), tmp_path / "work"
    work.mkdir()
    (tmp_path / "mlartifacts").write_text("no folder", encoding="utf-8")
    tracker = start(config, "pretrain", work)
    tracker.text("one", "one.txt")
    tracker.metrics({"loss": 1.0})
    tracker.text("two", "two.txt")
    tracker.finish("FINISHED")
    found = MlflowClient(tracking_uri=config.uri)
    run = found.get_run(tracker.run_id)
    assert (run.data.metrics, run.info.status) == ({"loss": 1.0}, "FINISHED")
    (tmp_path / "mlartifacts").unlink()
    send(work)
    assert {artifact.path for artifact in found.list_artifacts(tracker.run_id)} == {"one.txt", "two.txt"}


def test_the_journal_holds_plain_lines(silent: str, tmp_path: Path) -> None:
    tracker = start(TrackingConfig(uri=silent, patience_s=0.1), "pretrain", tmp_path)
    tracker.metrics({"loss": 1.0}, step=2)
    tracker.finish("FINISHED")
    lines = (tmp_path / FOLDER / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["run", "metrics", "status"]


def test_artifacts_lie_beside_the_sqlite_file(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    folder = Path(config.uri.removeprefix("sqlite:///")).parent
    tracker = start(config, "ingest", tmp_path)
    tracker.finish("FINISHED")
    assert client.get_experiment_by_name("tests").artifact_location == (folder / "mlartifacts").as_uri()


def test_tracking_switched_off_records_nothing(tmp_path: Path) -> None:
    tracker = start(TrackingConfig(enabled=False, uri=f"sqlite:///{tmp_path / 'mlflow.db'}"), "ingest", tmp_path)
    assert type(tracker) is Tracker
    assert tracker.run_id is None
    tracker.metrics({"loss": 1.0})
    tracker.finish("FINISHED")
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_the_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="set it in the environment") as refused:
        TrackingConfig.parse({"uri": "https://ann:secret@mlflow.example/"})
    assert "secret" not in str(refused.value)


def test_all_that_a_store_holds_can_be_read_back(tmp_path: Path) -> None:
    config = sqlite(tmp_path)
    (tmp_path / "work").mkdir()
    tracker = start(config, "probe", tmp_path / "work")
    tracker.params({"who": "Zebedee"})
    tracker.text("seen by Quentin", "note.txt")
    tracker.finish("FINISHED")
    (tmp_path / "kept").mkdir()
    records = dict(recorded(config, tmp_path / "kept"))
    assert "Zebedee" in records[f"run {tracker.run_id}"]
    assert (tmp_path / "kept" / str(tracker.run_id) / "note.txt").read_text() == "seen by Quentin"
    assert database(config) == tmp_path / "mlflow.db"


def track(folder: Path) -> None:
    folder.mkdir()
    tracker = start(TrackingConfig(patience_s=120), "ingest", folder)
    tracker.metrics({"n": 1.0})
    tracker.finish("FINISHED")
    say(str(tracker.run_id))


def test_stages_that_start_at_once_in_a_fresh_folder_all_make_their_run(tmp_path: Path) -> None:
    others = [Forked(track, Path(f"run-{number}"), folder=tmp_path) for number in range(4)]
    names = {other.line().strip() for other in others}
    assert [other.wait() for other in others] == [0] * 4
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("medvit").experiment_id])
    assert {run.info.run_id for run in runs} == names
    assert len(names) == 4
    assert all(run.info.status == "FINISHED" and run.data.metrics == {"n": 1.0} for run in runs)
    assert not list(tmp_path.glob(".mlflow.db*")), "no lock is left"


def test_child_runs_are_below_their_run_with_metrics_parameters_and_files(
    config: TrackingConfig, client: MlflowClient, tmp_path: Path
) -> None:
    tracker = start(config, "finetune", tmp_path)
    tracker.tags({"mlflow.runName": "finetune organs", "mlflow.user": "someone"})
    tracker.metrics({"loss": 9.0})
    children = [tracker.child(f"model-{number}", f"fold {number + 1} of 2") for number in range(2)]
    for number, child in enumerate(children):
        child.params({"fold": number + 1})
        for step in range(3):
            child.metrics({"loss": number + step}, step)
            tracker.metrics({"mean": float(step)}, step)
        child.text("a text", "notes/text.txt")
    children[0].finish("FINISHED")
    tracker.finish("KILLED")
    own = client.get_run(tracker.run_id)
    found = client.search_runs([own.info.experiment_id], f"tags.`mlflow.parentRunId` = '{tracker.run_id}'")
    first, second = sorted(found, key=lambda run: run.info.run_name)
    assert [one.info.run_name for one in (first, second)] == [
        "fold 1 of 2, finetune organs",
        "fold 2 of 2, finetune organs",
    ]
    assert [one.info.status for one in (own, first, second)] == ["KILLED", "FINISHED", "KILLED"]
    assert first.data.params == {"fold": "1"}
    assert first.data.tags["mlflow.user"] == "someone"
    assert [one.value for one in client.get_metric_history(second.info.run_id, "loss")] == [1, 2, 3]
    assert own.data.metrics == {"loss": 9.0, "mean": 2.0}
    assert [one.path for one in client.list_artifacts(second.info.run_id)] == ["notes"]


def test_a_child_run_of_a_resumed_run_is_continued(
    config: TrackingConfig, client: MlflowClient, tmp_path: Path
) -> None:
    for status in ("KILLED", "FINISHED"):
        tracker = start(config, "finetune", tmp_path)
        child = tracker.child("model-0", "fold 1 of 2")
        child.metrics({"loss": 1.0})
        child.finish(status)
        tracker.finish(status)
    (found,) = client.search_runs(
        [client.get_run(tracker.run_id).info.experiment_id], f"tags.`mlflow.parentRunId` = '{tracker.run_id}'"
    )
    assert found.info.status == "FINISHED"
    assert len(client.get_metric_history(found.info.run_id, "loss")) == 2


def test_runs_that_made_inputs_are_tags_and_those_of_another_store_are_marked(
    config: TrackingConfig, client: MlflowClient, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    known = start(config, "pretrain", folders[0])
    known.finish("FINISHED")
    tracker = start(config, "finetune", folders[1])
    tracker.tags({"medvit.parent.checkpoint": str(known.run_id), "medvit.parent.dataset": "0" * 32})
    tracker.finish("FINISHED")
    tags = client.get_run(tracker.run_id).data.tags
    assert tags["medvit.parent.checkpoint"] == known.run_id
    assert {name for name in tags if name.startswith("medvit.parent_elsewhere.")} == {"medvit.parent_elsewhere.dataset"}
    assert "mlflow.parentRunId" not in tags


def test_a_new_experiment_is_shown_as_training_of_models(client: MlflowClient, config: TrackingConfig) -> None:
    experiment = client.get_experiment_by_name(config.experiment)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
