"""Record of a dataset in MLflow: name, digest, folder, columns, and numbers of images, patients and classes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from medvit.config import Tree
from medvit.dataset.manifest import SCHEMA, Manifest
from medvit.patients import PatientCount
from medvit.tracking import Tracker

MAX_CLASSES = 50
"""Maximum number of values of a label for which the numbers of images are recorded."""


def record_dataset(tracker: Tracker, manifest: Manifest, context: str) -> None:
    """Record a dataset as read or made by the stage `context`."""
    tracker.dataset(
        manifest.facts.name,
        manifest.hash,
        context,
        folder=str(manifest.folder.absolute()),
        columns=columns(),
        profile=profile(manifest),
    )


def columns() -> list[Tree]:
    """Return the columns of a manifest in the form of MLflow schemas (`mlflow.types.Schema.to_dict`)."""
    return [{"name": field.name, "required": False, **_type(field.type)} for field in SCHEMA]


def profile(manifest: Manifest) -> dict[str, Any]:
    """Return the numbers of images, patients and studies, by split, modality and value of each label."""
    rows = manifest.rows
    labels: dict[str, Counter[str]] = {}
    for row in rows:
        for key, value in row.labels.items():
            labels.setdefault(key, Counter())[value] += 1
    patients = PatientCount.of(rows)
    return {
        "num_rows": len(rows),
        "num_patients": patients.total,
        "num_assumed_patients": patients.assumed,
        "num_studies": len({row.study_id for row in rows}),
        "splits": _counts(Counter(str(row.split) for row in rows)),
        "modalities": _counts(Counter(str(row.modality) for row in rows)),
        "labels": {
            key: _counts(values) if len(values) <= MAX_CLASSES else f"{len(values)} different values"
            for key, values in sorted(labels.items())
        },
        "num_label_maps": sum(row.mask is not None for row in rows),
        "label_map_classes": list(manifest.facts.mask_classes),
    }


def _counts(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))


def _type(kind: pa.DataType) -> Tree:
    if pa.types.is_list(kind):
        return {"type": "array", "items": _type(kind.value_type)}
    if pa.types.is_map(kind):
        return {"type": "map", "values": _type(kind.item_type)}
    names = {pa.string(): "string", pa.int64(): "long", pa.float64(): "double", pa.bool_(): "boolean"}
    return {"type": names[kind]}
