"""Deletion of a patient: what is listed is removed, everything of other patients remains, weights are not changed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from medvit.artifacts import WEIGHTS, Lineage
from medvit.dataset.manifest import Manifest
from medvit.deidentification import crosswalk
from medvit.embeddings.table import EmbeddedImage, EmbeddingTable
from medvit.forgetting.removal import remove
from medvit.forgetting.search import search
from medvit.lineage.deletions import deletions, digest_of_patient
from medvit.lineage.index import find_artifacts, read_artifact
from medvit.lineage.patients import PatientNames, patient_uses
from medvit.lineage.tree import missing, origins
from pipelines.datasets.forget import forget
from tests.lineage.chain import OTHER, PATIENT, write_chain

OFF = {"tracking": {"enabled": False}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = write_chain(tmp_path)
    labeled = Manifest.read(folder / "labeled")
    images = tuple(map(EmbeddedImage.of, labeled.rows))
    (folder / "embeddings").mkdir()
    EmbeddingTable(images, np.eye(2, dtype=np.float32), {"model": "x"}).write(folder / "embeddings")
    Lineage("embed", "c1", {"dataset": labeled.hash}).write(folder / "embeddings")
    shown = [{"image_id": row.image_id, "patient_id": row.patient_id, "kind": "best"} for row in labeled.rows]
    metrics = {"metrics": {"auroc": {"value": 0.5}}, "cases": {"shown": shown}}
    (folder / "report" / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (folder / "report" / "report.html").write_text("<html>pictures</html>", encoding="utf-8")
    (folder / "site.key").write_bytes(b"k" * 32)
    pairs = [(name, f"original of {row.patient_id}") for row in labeled for name in (row.patient_id, row.study_id)]
    crosswalk.write(folder / "site.key", "labeled", pairs)
    return folder


def options(runs: Path) -> dict[str, object]:
    return {"patient": PATIENT, "runs": runs, "key": runs / "site.key", **OFF}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_by_default_everything_is_listed_and_nothing_changes(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(runs)
    forget(**options(runs))
    text = capsys.readouterr().out
    assert contents(runs) == before
    study = next(row.study_id for row in Manifest.read(runs / "labeled") if row.patient_id == PATIENT)
    for part in (
        "manifest.parquet: 1 row",
        "manifest.parquet: 2 rows",
        "embeddings.parquet: 1 row",
        "status.csv: 1 line",
    ):
        assert part in text
    for part in (f"{study}: the whole folder", "report.html", "labeled.csv: 2 lines", "metrics.json: 1 entry"):
        assert part in text
    assert f"{runs / 'backbone'}: trained on this patient; weights are not edited" in text


def test_after_the_deletion_nothing_names_the_patient_and_the_others_remain(runs: Path) -> None:
    names = PatientNames.of(PATIENT, list(find_artifacts(runs)))
    weights = [(runs / name / WEIGHTS).read_bytes() for name in ("backbone", "model")]
    pixels = {address: Manifest.read(runs / "labeled").store.path(address) for address in names.addresses}
    forget(**options(runs), apply=True)
    for path, content in contents(runs).items():
        if not path.endswith(".parquet"):
            assert not any(name.encode() in content for name in names.all), path
        assert not any(name in path for name in names.all | names.addresses), path
    for name, number in (("unlabeled", 1), ("labeled", 1)):
        rows = Manifest.read(runs / name).rows
        assert [row.patient_id for row in rows] == [OTHER] * number
        assert all(row.sha256 in Manifest.read(runs / name).store for row in rows)
    assert not any(path.exists() for path in pixels.values())
    assert [one.patient_id for one in EmbeddingTable.read(runs / "embeddings").images] == [OTHER]
    assert pq.read_table(runs / "report" / "predictions.parquet")["patient_id"].to_pylist() == [OTHER]
    assert not (runs / "report" / "report.html").exists()
    assert len(json.loads((runs / "report" / "metrics.json").read_text())["cases"]["shown"]) == 1
    assert (runs / "labeled" / "card.html").is_file()
    assert [(runs / name / WEIGHTS).read_bytes() for name in ("backbone", "model")] == weights
    assert {one.artifact.name for one in patient_uses(names, list(find_artifacts(runs)))} == {"backbone", "model"}
    private = crosswalk.place(runs / "site.key", "labeled")
    assert private.stat().st_mode & 0o777 == 0o600


def test_the_deletion_is_recorded_by_digest_and_explains_the_changed_dataset(runs: Path) -> None:
    before = Manifest.read(runs / "labeled").hash
    forget(**options(runs), apply=True)
    (record,) = deletions(runs / "labeled")
    assert (record.before, record.after) == (before, Manifest.read(runs / "labeled").hash)
    assert record.patient == digest_of_patient(PATIENT)
    assert record.counts == {"rows": 1, "delete": 1}
    assert len(deletions(runs)) == 1
    found = list(find_artifacts(runs))
    tree = origins(read_artifact(runs / "model"), found)
    assert {node.state for node in tree.walk() if node.role == "dataset"} == {"patients deleted since"}
    assert not missing(tree)


def test_an_interrupted_deletion_is_completed_by_the_same_command(runs: Path) -> None:
    found = list(find_artifacts(runs))
    names = PatientNames.of(PATIENT, found)
    interrupted = [one for one in search(runs / "unlabeled", names) if one.path.name != "manifest.parquet"]
    assert interrupted
    for one in interrupted:
        remove(one, names)
    forget(**options(runs), apply=True)
    assert [row.patient_id for row in Manifest.read(runs / "unlabeled")] == [OTHER]
    assert {one.artifact.name for one in patient_uses(names, list(find_artifacts(runs)))} == {"backbone", "model"}


def test_pixels_that_another_patient_has_too_are_kept(runs: Path) -> None:
    manifest = Manifest.read(runs / "labeled")
    own, other = (next(row for row in manifest if row.patient_id == name) for name in (PATIENT, OTHER))
    rows = tuple(replace(row, sha256=own.sha256) if row == other else row for row in manifest.rows)
    replace(manifest, rows=rows).write()
    forget(**options(runs), apply=True)
    (row,) = Manifest.read(runs / "labeled").rows
    assert row.sha256 == own.sha256
    assert row.sha256 in Manifest.read(runs / "labeled").store


def test_the_database_of_a_batch_loses_the_study(runs: Path) -> None:
    found = list(find_artifacts(runs))
    names = PatientNames.of(PATIENT, found)
    path = runs / "predictions" / ".worklist.sqlite"
    studies = [row.study_id for row in Manifest.read(runs / "labeled")]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE studies (name TEXT)")
        connection.executemany("INSERT INTO studies VALUES (?)", [(study,) for study in studies])
        connection.commit()
    forget(**options(runs), apply=True)
    with closing(sqlite3.connect(path)) as connection:
        left = {name for (name,) in connection.execute("SELECT name FROM studies")}
    assert left == set(studies) - names.others


def test_an_unknown_patient_changes_nothing(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(runs)
    forget(**{**options(runs), "patient": "p-ffffffffffff"}, apply=True)
    assert contents(runs) == before
    assert "none of the 7 artifacts" in capsys.readouterr().out
