"""Studies of a server are predicted one at a time, as those of a folder."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from medvit.artifacts import Predictions
from medvit.errors import SourceError
from pipelines.predict import predict
from tests.models.untrained import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An untrained model of CT volumes."""
    return write_checkpoint(tmp_path / "checkpoint")


def run(checkpoint: Path, source: str | Path, output: Path, **options: object) -> Predictions:
    tree = {"checkpoint": checkpoint, "source": source, "output": output, "key": checkpoint.parent / "site.key"}
    return predict(predict.config_type.parse({**tree, "tracking": {"enabled": False}, **options}))


def table(path: Path) -> list[dict[str, str]]:
    lines = list(csv.DictReader(path.open(encoding="utf-8")))
    return [{key: text for key, text in line.items() if key != "seconds"} for line in lines]


def test_predictions_from_a_server_are_those_from_the_folder(
    orthanc: Any, secrets: Mapping[str, str], studies: Path, checkpoint: Path, tmp_path: Path
) -> None:
    expected = run(checkpoint, studies, tmp_path / "folder")
    made = run(checkpoint, orthanc.web, tmp_path / "web", retrieve={"auth": secrets})
    assert (made.num_done, made.num_skipped, made.num_failed) == (2, 1, 0)
    for name in ("status.csv", "predictions.csv"):
        assert table(made.folder / name) == table(expected.folder / name)
    assert not list(made.folder.glob(".spool"))


def test_a_run_that_lost_its_server_goes_on_without_fetching_what_is_done(
    make_faults: Callable[..., Any], token: Mapping[str, str], studies: Path, checkpoint: Path, tmp_path: Path
) -> None:
    faults = make_faults()
    retrieve = {"auth": token, "retries": 0, "backoff_s": 0.01}
    last = max(path.name for path in studies.iterdir())
    faults.plan = lambda number, path: "html" if last in path else ""
    with pytest.raises(SourceError):
        run(checkpoint, faults.url, tmp_path / "web", retrieve=retrieve)
    done = {path for path in faults.requested if last not in path}
    assert done
    faults.plan = lambda number, path: ""
    made = run(checkpoint, faults.url, tmp_path / "web", retrieve={**retrieve, "retries": 2}, resume=True)
    assert (made.num_done, made.num_skipped, made.num_failed) == (2, 1, 0)
    fetched_twice = {path for path in done if faults.requested[path] > 1}
    assert not {path for path in fetched_twice if len(list((studies / path.split("/")[3]).rglob("*.dcm"))) > 1}


def test_a_study_that_does_not_come_whole_fails_and_the_others_are_done(
    make_faults: Callable[..., Any], token: Mapping[str, str], studies: Path, checkpoint: Path, tmp_path: Path
) -> None:
    faults = make_faults()
    slices = next(series for series in studies.glob("*/*") if len(list(series.iterdir())) > 1)
    gone = (slices.name, min(slices.iterdir()).stem)
    faults.plan = lambda number, path: "gone" if path.endswith(gone) else ""
    made = run(checkpoint, faults.url, tmp_path / "web", retrieve={"auth": token, "retries": 0})
    assert (made.num_done, made.num_skipped, made.num_failed) == (1, 1, 1)
    (failed,) = [line for line in table(made.folder / "status.csv") if line["status"] == "failed"]
    assert failed["code"] == "incomplete"
    assert "1 of 32 instances were not received" in failed["reason"]
