"""Golden outputs: equal folders are equal, a changed value is found in every kind of file, masked ones are not."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import blosc2
import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from safetensors.numpy import save

from benchmarks.golden.__main__ import compare, differences
from benchmarks.golden.masks import MADE_IN

CT = "1.2.840.10008.5.1.4.1.1.2"
RUN = "0123456789abcdef0123456789abcdef"


def to_bytes(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def dicom(value: int, uid: str = "1.2.3", time: str = "120000") -> bytes:
    dataset, item = Dataset(), Dataset()
    item.CodeMeaning = f"Liver {value}"
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.ContentTime = CT, uid, time
    dataset.Rows, dataset.ConceptNameCodeSequence = 64, [item]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = CT, uid
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return to_bytes(lambda stream: dataset.save_as(stream, enforce_file_format=True))


def parquet(value: int, fact: str = "a") -> bytes:
    table = pa.table({"name": ["x", "y"], "count": [1, value]}).replace_schema_metadata(
        {"facts": f'{{"of": "{fact}"}}'}
    )
    return to_bytes(lambda stream: pq.write_table(table, stream))


def png(value: int) -> bytes:
    return to_bytes(lambda stream: Image.fromarray(np.array([[0, value]], np.uint8)).save(stream, "PNG"))


def nifti(value: int) -> bytes:
    return bytes(nib.Nifti1Image(np.array([[[0, value]]], np.int16), np.eye(4)).to_bytes())


def npz(value: int) -> bytes:
    return to_bytes(lambda stream: np.savez(stream, a=np.array([0, value])))


def zipped(value: int) -> bytes:
    def write(stream: io.BytesIO) -> None:
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("inside.json", json.dumps({"a": value}))

    return to_bytes(write)


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return folder


def found(tmp_path: Path, name: str, a: bytes, b: bytes) -> list[str]:
    return list(differences(put(tmp_path / "a", name, a), put(tmp_path / "b", name, b)))


KINDS: dict[str, tuple[Callable[[int], bytes], str]] = {
    "a.json": (lambda value: b'{"a": [{"b": 0}, {"b": %d}]}' % value, "a[1].b: 1 | 2"),
    "a.jsonl": (lambda value: b'{"a": 0}\n{"a": %d}\n' % value, "line 2.a: 1 | 2"),
    "a.yaml": (lambda value: b"a: {b: %d}" % value, "a.b: 1 | 2"),
    "a.csv": (lambda value: b"x,y\n0,%d\n" % value, "row 1, y: '1' | '2'"),
    "a.md": (lambda value: b"# Title\n\nvalue %d\n" % value, "line 2: 'value 1' | 'value 2'"),
    "a.html": (lambda value: b"<p>%d</p>" % value, "line 1: '<p>1</p>' | '<p>2</p>'"),
    "a.txt": (lambda value: b"2026-01-31 12:00:00 INFO %d" % value, "line 1: 'INFO 1' | 'INFO 2'"),
    "a.parquet": (parquet, "row 1, count: 1 | 2"),
    "a.dcm": (dicom, "(0040,A043) ConceptNameCodeSequence[0] (0008,0104) CodeMeaning: 'LO Liver 1' | 'LO Liver 2'"),
    "a.safetensors": (lambda value: save({"w": np.float32([0, value])}), "w: 1 of 2 values differ, first at (1,): 1.0"),
    "a.b2nd": (lambda value: blosc2.asarray(np.array([0, value])).to_cframe(), "array: 1 of 2 values differ"),
    "a.png": (png, "pixels: 1 of 2 values differ, first at (0, 1): 1 | 2"),
    "a.npz": (npz, "a: 1 of 2 values differ, first at (1,): 1 | 2"),
    "a.nii": (nifti, "voxels: 1 of 2 values differ, first at (0, 0, 1): 1 | 2"),
    "a.nii.gz": (lambda value: gzip.compress(nifti(value)), "voxels: 1 of 2 values differ"),
    "a.zip": (zipped, "inside.json: a: 1 | 2"),
    "a.bin": (lambda value: bytes([value]), "bytes: b'\\x01' | b'\\x02'"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_changed_value_is_found_and_named(name, tmp_path):
    write, expected = KINDS[name]
    assert found(tmp_path / "same", name, write(1), write(1)) == []
    lines = found(tmp_path / "changed", name, write(1), write(2))
    assert any(line.startswith(f"{name}: {expected}") for line in lines), lines


def test_the_exit_status_tells_equal_from_different(tmp_path, capsys):
    a, b, c = (put(tmp_path / name, "x/a.json", text) for name, text in (("a", b"1"), ("b", b"1 "), ("c", b"2")))
    assert compare(a, b) == 0
    assert compare(a, c) == 1
    assert compare(a, tmp_path / "nowhere") == 2
    assert "x/a.json: : 1 | 2" in capsys.readouterr().out


def test_a_file_that_only_one_folder_has_is_found(tmp_path):
    a, b = put(tmp_path / "a", "both", b""), put(tmp_path / "b", "both", b"")
    put(b, "more/one.png", png(1))
    assert list(differences(a, b)) == [f"more/one.png: only in {b}"]
    assert list(differences(b, a)) == [f"more/one.png: only in {b}"]


def test_types_count_as_well_as_values(tmp_path):
    assert found(tmp_path / "json", "a.json", b"[1]", b"[1.0]") == ["a.json: [0]: 1 | 1.0"]
    assert found(tmp_path / "nan", "a.json", b"[NaN]", b"[NaN ]") == []
    pair = [to_bytes(lambda stream, kind=kind: np.save(stream, np.zeros(2, kind))) for kind in ("f4", "f8")]
    assert found(tmp_path / "npy", "a.npy", *pair) == ["a.npy: array: float32 (2,) | float64 (2,)"]


def test_metadata_of_a_table_is_compared_by_value_but_for_states(tmp_path):
    assert found(tmp_path, "a.parquet", parquet(1), parquet(1, "b")) == ["a.parquet: metadata facts.of: 'a' | 'b'"]


def test_times_of_gzip_and_of_logs_and_progress_are_masked(tmp_path):
    pair = [gzip.compress(b"x", mtime=time) for time in (1, 2)]
    assert found(tmp_path / "gzip", "a.gz", *pair) == []
    day, other = b"2026-01-31 12:00:00 INFO ", b"2026-02-01 13:30:00 INFO "
    progress = (
        day
        + b"Training: 1 of 2 steps (50%), 1.5 s/step, 1.5 s left; loss=1\n"
        + day
        + b"a: 2 images in 12 s, 9 image/s\n"
    )
    pair = [day + b"go\n" + progress + day + b"a: done in 3 s\n", other + b"go\n" + other + b"a: done in 2 min 4 s\n"]
    assert found(tmp_path / "log", "a.txt", *pair) == []
    assert found(tmp_path / "words", "a.txt", day + b"3 of 4 slides\n", day + b"2 of 4 slides\n") != []
    assert found(tmp_path / "seconds", "status.csv", b"study,seconds\ns,1\n", b"study,seconds\ns,2\n") == []


def test_states_that_cover_the_source_text_of_medvit_are_masked_and_what_follows_them_is_not(tmp_path):
    a, b = "a" * 64, "b" * 64
    line = '{"state": "%s", "taken": {"sha256": "%s"}}'
    assert found(tmp_path / "state", "taken.jsonl", (line % (a, a)).encode(), (line % (b, a)).encode()) == []
    (difference,) = found(tmp_path / "taken", "taken.jsonl", (line % (a, a)).encode(), (line % (a, b)).encode())
    assert difference.startswith("taken.jsonl: line 1.taken.sha256: ")
    header = '%s dicom [null,[{"rows":%d}]]'
    assert found(tmp_path / "key", "h.jsonl", (header % (a, 1)).encode(), (header % (b, 1)).encode()) == []
    (difference,) = found(tmp_path / "rows", "h.jsonl", (header % (a, 1)).encode(), (header % (b, 2)).encode())
    assert difference == "h.jsonl: line 1[1][0].rows: 1 | 2"


def test_long_lines_are_read_in_time(tmp_path):
    line = b"<img src='data:image/png;base64,%s'>%%s" % (b"iVBORw0KGgo" * 100_000)
    (difference,) = found(tmp_path, "report.html", line % b"1", line % b"2")
    assert "'>1\" | " in difference
    assert difference.endswith("'>2\"")


def test_uids_and_times_that_highdicom_draws_are_masked(tmp_path):
    assert found(tmp_path, "predictions/segmentation.dcm", dicom(1), dicom(1, "1.2.4", "130000")) == []


def test_the_folder_and_the_runs_of_mlflow_are_masked(tmp_path):
    for name, run in (("a", RUN), ("b", RUN[::-1])):
        folder = put(tmp_path / name, MADE_IN, f"/made/{name}".encode())
        put(folder, f"mlartifacts/{run}/config.yaml", b"seed: 0")
        put(folder, "lineage.json", json.dumps({"run_id": run, "source": f"/made/{name}/in"}).encode())
        database(folder / "mlflow.db", run, loss=0.5)
    assert list(differences(tmp_path / "a", tmp_path / "b")) == []
    database(tmp_path / "b" / "mlflow.db", RUN, loss=0.25)
    put(tmp_path / "b", "lineage.json", b"{}")
    lines = "\n".join(differences(tmp_path / "a", tmp_path / "b"))
    assert "mlflow.db: metrics 1: 'run-1\\tloss\\t1\\t0.5\\t0' | 'run-1\\tloss\\t1\\t0.25\\t0'" in lines
    assert "lineage.json: run_id: 'run-1' | missing" in lines


def database(path: Path, run: str, *, loss: float) -> None:
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE runs (run_uuid, name, status, lifecycle_stage, start_time);"
            "CREATE TABLE params (run_uuid, key, value); CREATE TABLE tags (run_uuid, key, value);"
            "CREATE TABLE metrics (run_uuid, key, step, value, is_nan, timestamp);"
            "CREATE TABLE datasets (name, digest);"
        )
        connection.execute("INSERT INTO runs VALUES (?, 'pretrain', 'FINISHED', 'active', 1)", (run,))
        connection.execute("INSERT INTO metrics VALUES (?, 'loss', 1, ?, 0, 1)", (run, loss))
