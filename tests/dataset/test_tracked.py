"""A dataset in MLflow has its digest, folder, columns, and the numbers of its images, patients and classes."""

from __future__ import annotations

import json
from pathlib import Path

from mlflow import MlflowClient
from mlflow.data import get_source
from mlflow.types import Schema

from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.tracked import MAX_CLASSES, profile, record_dataset
from medvit.records import Row
from medvit.tracking import TrackingConfig, start
from tests.plugins.tracking_template import MakeStore


def row(number: int, patient: int, split: str, label: str) -> Row:
    return Row(
        image_id=f"i-{number:02d}",
        patient_id=f"p-{patient:02d}",
        study_id=f"s-{number:02d}",
        series_id=f"e-{number:02d}",
        modality="CT",
        kind="volume",
        dataset="phantoms",
        split=split,
        shape=(1, 4, 5, 6),
        dtype="int16",
        sha256="ab" * 32,
        labels={"phase": label, "volume_ml": f"{number / 7}"},
    )


def manifest(folder: Path, num_rows: int = 4) -> Manifest:
    """Return a dataset of two images a patient, the first of the two venous."""
    rows = [row(n, n // 2, "train" if n < 2 else "test", ("venous", "native")[n % 2]) for n in range(num_rows)]
    return Manifest(tuple(rows), Facts("phantoms"), folder)


def test_a_profile_counts_images_patients_and_classes(tmp_path: Path) -> None:
    found = profile(manifest(tmp_path))
    assert (found["num_rows"], found["num_patients"], found["num_studies"]) == (4, 2, 4)
    assert found["splits"] == {"test": 2, "train": 2}
    assert found["labels"]["phase"] == {"native": 2, "venous": 2}


def test_a_label_with_many_values_has_only_their_number(tmp_path: Path) -> None:
    found = profile(manifest(tmp_path, MAX_CLASSES + 1))
    assert found["labels"]["volume_ml"] == f"{MAX_CLASSES + 1} different values"


def test_a_profile_has_no_pseudonyms(tmp_path: Path) -> None:
    text = json.dumps(profile(manifest(tmp_path)))
    assert not [one for one in ("p-00", "i-00", "s-00", "e-00") if one in text]


def test_a_recorded_dataset_has_its_numbers_and_can_be_opened(tmp_path: Path, make_store: MakeStore) -> None:
    dataset, work = manifest(tmp_path / "dataset"), tmp_path / "work"
    for folder in (dataset.folder, work):
        folder.mkdir()
    dataset.write()
    uri = make_store(tmp_path)
    tracker = start(TrackingConfig(uri=uri, patience_s=60), "finetune", work)
    record_dataset(tracker, dataset, "finetune")
    record_dataset(tracker, dataset, "finetune")
    tracker.finish("FINISHED")
    (found,) = MlflowClient(tracking_uri=uri).get_run(tracker.run_id).inputs.dataset_inputs
    assert dataset.hash.startswith(found.dataset.digest)
    assert json.loads(found.dataset.profile) == profile(dataset)
    columns = Schema.from_json(json.dumps(json.loads(found.dataset.schema)["mlflow_colspec"]))
    assert {"image_id", "labels", "shape"} <= set(columns.input_names())
    assert Manifest.read(get_source(found.dataset).load()) == dataset
