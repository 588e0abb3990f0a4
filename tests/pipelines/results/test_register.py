"""Registration: only passed models of their own report, found again by version and alias, and served by MLflow."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from medvit.artifacts import WEIGHTS, Checkpoint, Lineage
from medvit.errors import CheckpointError, ConfigError, DataError, TrackingError
from medvit.phantoms import write_radiograph_studies
from medvit.tracking.model_registry import SHA256_TAG, VERDICT_TAG
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.results.register import register
from tests.pipelines.short_training import OFF, SHORT

SERVE_S = 180


@dataclass(frozen=True)
class Project:
    """A dataset of radiographs, a model, and its reports with and without criteria."""

    folder: Path
    tracking: dict[str, Any]

    def options(self, report: str = "passed", **changes: Any) -> dict[str, Any]:
        folders = {"checkpoint": self.folder / "model", "report": self.folder / report}
        return folders | {"name": "chest", "tracking": self.tracking} | changes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registered")
    write_radiograph_studies(folder / "source", 40)
    key = folder / "site.key"
    ingest(source=folder / "source", dataset=folder / "dataset", key=key, labeling={"from_folders": "folder"}, **OFF)
    finetune(
        dataset=folder / "dataset",
        output=folder / "model",
        preprocess={"kind": "image", "size": [32, 32], "intensity": {"method": "range"}},
        **SHORT,
        **OFF,
    )
    common = {"checkpoint": folder / "model", "dataset": folder / "dataset", "resamples": 100, "hidden_strata": False}
    for name, criteria in (
        ("passed", [{"metric": "accuracy", "bound": 0.0}]),
        ("failed", [{"metric": "accuracy", "bound": 1.0}]),
        ("not-judged", []),
    ):
        evaluate(**common, output=folder / name, criteria=criteria, **OFF)
    return folder


@pytest.fixture
def project(trained: Path, tmp_path: Path, make_store) -> Project:
    return Project(trained, {"uri": make_store(tmp_path)})


def client_of(project: Project):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=project.tracking["uri"])


def test_a_passed_model_is_found_by_version_and_alias_in_every_stage(project, tmp_path):
    made = register(**project.options(alias="champion", output=tmp_path / "a"))
    version = client_of(project).get_model_version("chest", made.version)
    checkpoint = Checkpoint.load(project.folder / "model")
    assert version.tags[SHA256_TAG] == checkpoint.hash
    assert version.tags[VERDICT_TAG] == "passed"
    assert version.tags["medvit.input.dataset"] == Lineage.read(project.folder / "passed").inputs["dataset"]
    assert "Verdict of the report: passed." in version.description
    assert "- accuracy: " in version.description
    model = client_of(project).get_logged_model(version.source.removeprefix("models:/"))
    metrics = {one.key: one.value for one in model.metrics}
    assert metrics["test.accuracy.lower"] <= metrics["test.accuracy"] <= metrics["test.accuracy.upper"]
    assert model.params["peft.name"] == "full"
    assert model.model_type == "classification"
    for location in ("models:/chest/1", "models:/chest@champion"):
        output = tmp_path / location.rpartition("t")[2].strip("/@")
        report = evaluate(
            checkpoint=location,
            dataset=project.folder / "dataset",
            output=output,
            resamples=100,
            hidden_strata=False,
            tracking=project.tracking,
        )
        assert Lineage.read(report.folder).inputs["checkpoint"] == checkpoint.hash


def test_an_alias_moves_to_the_next_version(project, tmp_path):
    register(**project.options(alias="champion", output=tmp_path / "a"))
    assert register(**project.options(alias="champion", output=tmp_path / "b")).version == "1"  # the same once more
    second = register(**project.options("failed", allow=["failed"], alias="champion", output=tmp_path / "c"))
    assert second.version == "2"
    assert str(client_of(project).get_model_version_by_alias("chest", "champion").version) == "2"


@pytest.mark.parametrize(("report", "verdict"), [("failed", "failed"), ("not-judged", "not judged")])
def test_a_model_that_did_not_pass_is_refused_unless_allowed_and_the_tag_remains(project, report, verdict, tmp_path):
    with pytest.raises(DataError, match=f"the verdict .* is '{verdict}'"):
        register(**project.options(report, output=tmp_path / "a"))
    made = register(**project.options(report, allow=[verdict], output=tmp_path / "b"))
    assert client_of(project).get_model_version("chest", made.version).tags[VERDICT_TAG] == verdict


def test_the_report_of_another_model_is_refused(project, tmp_path):
    shutil.copytree(project.folder / "model", tmp_path / "other")
    state = {name: weight + 1 for name, weight in load_file(tmp_path / "other" / WEIGHTS).items()}
    save_file(state, tmp_path / "other" / WEIGHTS)
    with pytest.raises(DataError, match="is not of the model"):
        register(**project.options(checkpoint=tmp_path / "other", output=tmp_path / "a"))
    with pytest.raises(DataError, match="not a report"):
        register(**project.options("dataset", output=tmp_path / "a"))


def test_changed_weights_unknown_versions_and_other_forms_are_refused(project, tmp_path):
    register(**project.options(alias="champion", output=tmp_path / "a"))
    common = {"dataset": project.folder / "dataset", "output": tmp_path / "b", "tracking": project.tracking}
    for location, error in (
        ("models:/chest/7", TrackingError),
        ("models:/chest@nobody", TrackingError),
        ("models:/chest", ConfigError),
    ):
        with pytest.raises(error):
            evaluate(checkpoint=location, **common)
    (weights,) = tmp_path.rglob(f"*/artifacts/*/{WEIGHTS}")
    save_file({name: weight + 1 for name, weight in load_file(weights).items()}, weights)
    with pytest.raises(CheckpointError, match="not those that were registered"):
        evaluate(checkpoint="models:/chest@champion", **common)
    with pytest.raises(ConfigError, match="reserved"):
        register(**project.options(alias="latest", output=tmp_path / "c"))
    assert len(client_of(project).search_model_versions("name = 'chest'")) == 1


SCRIPT = """
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/chest@champion")
rows = pandas.DataFrame(json.load(sys.stdin))
print("ANSWER" + model.predict(rows).to_json(orient="records"))
"""


def test_a_served_model_answers_folders_and_archives_without_pickle(project, tmp_path):
    register(**project.options(alias="champion", output=tmp_path / "a"))
    root, outside = tmp_path / "studies", tmp_path / "outside"
    write_radiograph_studies(root, 1, seed=5)
    write_radiograph_studies(outside, 1, seed=5)
    (file,) = root.rglob("*.dcm")
    (root / "link").symlink_to(outside)
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.write(file, file.name)
    zipped = base64.b64encode(archive.getvalue()).decode()
    paths = [file.parent.name, "", "../outside", "link", "."]
    rows = [{"path": path, "zip": "" if path else zipped} for path in paths]
    environment = os.environ | {
        "MEDVIT_SERVE_ROOT": str(root),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, project.tracking["uri"]],
        input=json.dumps(rows),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "ANSWER" in done.stdout, done.stderr[-2000:]
    lines = json.loads(done.stdout.rpartition("ANSWER")[2])
    by_request = {number: [line for line in lines if line["request"] == number] for number in range(5)}
    folder, zipped_lines = ([(line["class"], line["probability"]) for line in by_request[n]] for n in (0, 1))
    assert folder == zipped_lines
    assert sum(float(probability) for _, probability in folder) == pytest.approx(1, abs=1e-4)
    for number in (2, 3, 4):
        assert [line["status"] for line in by_request[number]] == ["failed"]
        assert "MEDVIT_SERVE_ROOT" in by_request[number][0]["reason"]


def test_mlflow_models_serve_answers_arrays_archives_and_folders(project, tmp_path):
    """The same image as an array, as an archive and as a folder gives the same probabilities over HTTP."""
    from medvit.readers import find, read

    register(**project.options(alias="champion", output=tmp_path / "a"))
    root = tmp_path / "studies"
    write_radiograph_studies(root, 1, seed=5)
    (file,) = root.rglob("*.dcm")
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.write(file, file.name)
    (item,) = find([file])
    pixels = read(item).pixels[0].tolist()
    rows = [
        {"path": file.parent.name},
        {"zip": base64.b64encode(archive.getvalue()).decode()},
        {"pixels": pixels, "dtype": "uint16"},
        {"pixels": pixels},
        {"pixels": pixels, "dtype": "uint8"},
        {"dtype": "uint8", "pixels": [[1.0, 2.0], [3.0]]},
        {"path": "..", "pixels": pixels},
        {"path": "../outside"},
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["models", "serve", "-m", "models:/chest@champion", "--env-manager", "local", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words, "--host", "127.0.0.1", "--workers", "1"],
        cwd=tmp_path,
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # of uvicorn
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "MLFLOW_TRACKING_URI": project.tracking["uri"],
            "MEDVIT_SERVE_ROOT": str(root),
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        },
        start_new_session=True,
        stdout=(tmp_path / "server.log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    try:
        answer = _asked(f"http://127.0.0.1:{port}", {"dataframe_records": rows}, tmp_path / "server.log")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
    lines = answer["predictions"]
    found = [[line for line in lines if line["request"] == number] for number in range(len(rows))]
    by_folder, by_archive, by_array = ([(line["class"], line["probability"]) for line in one] for one in found[:3])
    assert by_folder == by_archive
    assert [name for name, _ in by_array] == [name for name, _ in by_folder]
    assert [value for _, value in by_array] == pytest.approx([value for _, value in by_folder], abs=1e-5)
    assert sum(value for _, value in by_array) == pytest.approx(1, abs=1e-5)
    assert [one[0]["status"] for one in found[3:]] == ["failed"] * 5
    reasons = ("give dtype", "outside 0 to 255", "equal lengths", "one of path, zip and pixels", "MEDVIT_SERVE_ROOT")
    for (line,), reason in zip(found[3:], reasons, strict=True):
        assert reason in line["reason"]


def _asked(address: str, request: dict[str, Any], log: Path) -> dict[str, Any]:
    """Return the answer of a server to a request, which is sent when the server is up."""
    end = time.monotonic() + SERVE_S
    while True:
        try:
            urllib.request.urlopen(f"{address}/ping", timeout=5)
            break
        except OSError:
            assert time.monotonic() < end, log.read_text(encoding="utf-8")[-2000:]
            time.sleep(0.5)
    body = json.dumps(request).encode()
    asked = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=SERVE_S) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()[-2000:]) from None
