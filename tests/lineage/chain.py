"""Chain of small artifacts: two datasets, a backbone, a model, a report and predictions, which contain a patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from medvit.artifacts import Checkpoint, Lineage
from medvit.dataset import quarantine
from medvit.dataset.manifest import Facts, Manifest
from medvit.leakage.seen_patients import write_training_patients
from medvit.records import Row

PATIENT, OTHER = "p-0123456789ab", "p-ba9876543210"
CODE = {"commit": "0123456789abcdef", "files": "changed"}


def write_chain(folder: Path) -> Path:
    """Write the artifacts into a folder; return the folder."""
    unlabeled = _dataset(folder / "unlabeled", [(PATIENT, 1), (PATIENT, 2), (OTHER, 3)])
    labeled = _dataset(folder / "labeled", [(PATIENT, 4), (OTHER, 5)])
    backbone = _checkpoint(folder / "backbone", 1.0, {"dataset": unlabeled.hash})
    write_training_patients(folder / "backbone", unlabeled)
    model = _checkpoint(folder / "model", 2.0, {"checkpoint": backbone.hash, "dataset": labeled.hash})
    write_training_patients(folder / "model", labeled)
    report = folder / "report"
    report.mkdir()
    (report / "metrics.json").write_text('{"metrics": {}, "cases": {"shown": []}}', encoding="utf-8")
    rows = labeled.rows
    table = {
        "image_id": [row.image_id for row in rows],
        "patient_id": [row.patient_id for row in rows],
        "truth": [0, 1],
    }
    pq.write_table(pa.table(table), report / "predictions.parquet")
    Lineage("evaluate", "c0ff", {"checkpoint": model.hash, "dataset": labeled.hash}).write(report)
    predictions = folder / "predictions"
    studies = [row.study_id for row in rows]
    for study in studies:
        (predictions / study).mkdir(parents=True)
        (predictions / study / "mask.nii.gz").write_bytes(study.encode())
    lines = "".join(f"{study},done,,,1,mask.nii.gz\n" for study in studies)
    (predictions / "status.csv").write_text(f"study,status,code,reason,seconds,outputs\n{lines}", encoding="utf-8")
    cells = "".join(f"{study},e-0,organ,0.5\n" for study in studies)
    (predictions / "predictions.csv").write_text(f"study,series,class,probability\n{cells}", encoding="utf-8")
    Lineage("predict", "c0de", {"checkpoint": model.hash}, code=CODE).write(predictions)
    return folder


def _dataset(folder: Path, images: list[tuple[str, int]]) -> Manifest:
    folder.mkdir()
    manifest = Manifest((), Facts(folder.name), folder)
    rows = tuple(_row(manifest, patient, number) for patient, number in images)
    manifest = Manifest(rows, Facts(folder.name), folder)
    manifest.write()
    quarantine.write((), folder)
    Lineage("ingest", "c0ca", code=CODE).write(folder)
    return Manifest.read(folder)


def _row(manifest: Manifest, patient: str, number: int) -> Row:
    pixels = np.full((1, 8, 8), number, np.uint8)
    return Row(
        image_id=f"i-{number:016x}",
        patient_id=patient,
        study_id=f"s-{number:012x}",
        series_id=f"e-{number:012x}",
        modality="DX",
        kind="image",
        dataset=manifest.folder.name,
        split="train",
        shape=pixels.shape,
        dtype="uint8",
        sha256=manifest.store.put(pixels),
    )


def _checkpoint(folder: Path, weight: float, inputs: dict[str, str]) -> Checkpoint:
    saved = Checkpoint(folder, {"kind": "backbone"}, {}, {"weight": torch.full((2,), weight)}).save()
    Lineage("finetune", "c0", inputs, code=CODE).write(folder)
    return saved
