"""What a stage records is in a real MLflow store, and a store that cannot be used says so."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import matplotlib
import pytest
from mlflow import MlflowClient

from medvit.errors import ConfigError, TrackingError
from medvit.tracking import BATCH, MlflowTracker, Tracker, TrackingConfig, database, recorded, start
from tests.plugins.tracking_template import MakeStore

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    """A store that the tracker makes itself."""
    return TrackingConfig(uri=f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}", experiment="tests")


@pytest.fixture(scope="module")
def client(config: TrackingConfig) -> MlflowClient:
    return MlflowClient(tracking_uri=config.uri)


def test_a_run_holds_all_that_was_recorded(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    tracker = start(config, "finetune")
    assert isinstance(tracker, MlflowTracker)
    tracker.params({"optim": {"lr": 0.1}, "seed": 0, "long": "x" * 10_000})
    for step in range(5):
        tracker.metrics({"val/dice [mean]": step / 10}, step=step)
    tracker.tags({"medvit.kind": "test"})
    (tmp_path / "card.md").write_text("# Card\n", encoding="utf-8")
    tracker.file(tmp_path / "card.md")
    tracker.file(tmp_path, "folder")
    tracker.text("seed: 0\n", "config.yaml")
    tracker.figure(Figure(), "pictures/empty.png")
    tracker.dataset("phantoms", "ab" * 32, "finetune")
    tracker.finish("FINISHED")
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "finetune"
    assert run.data.params["optim.lr"] == "0.1"
    assert run.data.tags["medvit.kind"] == "test"
    assert [m.value for m in client.get_metric_history(tracker.run_id, "val/dice _mean_")] == [0, 0.1, 0.2, 0.3, 0.4]
    assert run.inputs.dataset_inputs[0].dataset.name == "phantoms"
    names = {artifact.path for artifact in client.list_artifacts(tracker.run_id)}
    assert {"card.md", "folder", "config.yaml", "pictures"} <= names


def test_metrics_wait_for_a_batch_and_none_is_lost(config: TrackingConfig, client: MlflowClient) -> None:
    tracker = start(config, "pretrain")
    for step in range(BATCH + 3):
        tracker.metrics({"loss": float(step)}, step=step)
    tracker.finish("FAILED")
    assert client.get_run(tracker.run_id).info.status == "FAILED"
    assert len(client.get_metric_history(tracker.run_id, "loss")) == BATCH + 3


def test_an_earlier_run_goes_on(config: TrackingConfig, client: MlflowClient) -> None:
    first = start(config, "pretrain")
    first.metrics({"loss": 1.0}, step=0)
    first.finish("FAILED")
    second = start(config, "pretrain", resumes=first.run_id)
    second.metrics({"loss": 0.5}, step=1)
    assert client.get_run(first.run_id).info.status == "RUNNING"
    second.finish("FINISHED")
    assert second.run_id == first.run_id
    assert len(client.get_metric_history(first.run_id, "loss")) == 2


def test_a_store_that_fails_midway_costs_its_record_and_not_the_work(
    tmp_path: Path, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = start(TrackingConfig(uri=make_store(tmp_path)), "pretrain")
    database = sqlite3.connect(tmp_path / "mlflow.db")
    for table in ("metrics", "latest_metrics", "params", "tags"):
        database.execute(f"DROP TABLE {table}")
    database.commit()
    for step in range(3 * BATCH):
        tracker.metrics({"loss": float(step)}, step=step)
    tracker.params({"lr": 1.0})
    tracker.tags({"a": "b"})
    tracker.file(tmp_path / "absent.md")
    tracker.finish("FINISHED")
    told = [record.message for record in caplog.records if "MLflow did not take" in record.message]
    kinds = {text.removeprefix("MLflow did not take ").partition(" (")[0] for text in told}
    assert {"metrics", "parameters", "tags", "files"} <= kinds
    assert len(told) == len(kinds), "each kind is told once"


def test_artifacts_lie_beside_the_sqlite_file(config: TrackingConfig, client: MlflowClient) -> None:
    folder = Path(config.uri.removeprefix("sqlite:///")).parent
    assert client.get_experiment_by_name("tests").artifact_location == (folder / "mlartifacts").as_uri()


def test_tracking_switched_off_records_nothing(tmp_path: Path) -> None:
    tracker = start(TrackingConfig(enabled=False, uri=f"sqlite:///{tmp_path / 'mlflow.db'}"), "ingest")
    assert type(tracker) is Tracker
    assert tracker.run_id is None
    tracker.metrics({"loss": 1.0})
    tracker.finish("FINISHED")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_used_says_so_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = TrackingConfig(uri=f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")
    logging.disable(logging.CRITICAL)
    with pytest.raises(TrackingError, match=r"cannot be used: .*; set tracking\.uri or tracking\.enabled=false"):
        start(config, "ingest")
    logging.disable(logging.NOTSET)


def test_a_run_to_resume_that_is_gone_says_so(config: TrackingConfig) -> None:
    with pytest.raises(TrackingError, match="cannot be used"):
        start(config, "ingest", resumes="0" * 32)


def test_a_password_in_the_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="give it in the environment") as refused:
        TrackingConfig.parse({"uri": "https://ann:secret@mlflow.example/"})
    assert "secret" not in str(refused.value)


def test_all_that_a_store_holds_can_be_read_back(tmp_path: Path, make_store: MakeStore) -> None:
    config = TrackingConfig(uri=make_store(tmp_path))
    tracker = start(config, "probe")
    tracker.params({"who": "Zebedee"})
    tracker.text("seen by Quentin", "note.txt")
    tracker.finish("FINISHED")
    (tmp_path / "kept").mkdir()
    told = dict(recorded(config, tmp_path / "kept"))
    assert "Zebedee" in told[f"run {tracker.run_id}"]
    assert (tmp_path / "kept" / str(tracker.run_id) / "note.txt").read_text() == "seen by Quentin"
    assert database(config) == tmp_path / "mlflow.db"
