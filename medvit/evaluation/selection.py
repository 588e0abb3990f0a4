"""Which images of a split an evaluation measures on: those with a truth, of patients the model was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.leakage.seen_patients import seen_patients
from medvit.models.image import ModelConfig
from medvit.models.slide import SlideModelConfig
from medvit.patients import PatientCount

SeenPatients = Literal["refuse", "leave_out", "keep"]


def with_known_truth(
    manifest: Manifest, model: ModelConfig | SlideModelConfig, row_kind: str
) -> tuple[Manifest, list[str]]:
    """Return the images whose truth is known in the model's own classes, and a note on those left out.

    Raises:
        DataError: If there is none, or the dataset's classes are not the model's.
    """
    facts = manifest.facts
    known = facts.mask_classes if model.kind == "segmentation" else facts.classes.get(model.label, ())
    if tuple(known) != model.classes:
        raise DataError(
            f"{manifest.folder}: the model tells {', '.join(model.classes)} apart, "
            f"the dataset {', '.join(known) or 'nothing of the kind'}; evaluate it on a dataset of the same classes"
        )
    kept = manifest.filter(
        lambda row: (
            row.kind == row_kind
            and (bool(row.mask) if model.kind == "segmentation" else row.labels.get(model.label) in model.classes)
        )
    )
    if not kept.rows:
        raise DataError(f"{manifest.folder}: no image of this split has the truth for a {model.kind}")
    left_out = len(manifest) - len(kept)
    return kept, [f"{left_out} of {len(manifest)} images of the split have no truth and were left out"] * bool(left_out)


def without_training_patients(manifest: Manifest, checkpoint: Path, policy: SeenPatients) -> tuple[Manifest, list[str]]:
    """Return the images of patients that a model has not learned from, or all of them, and a note on those it has.

    Raises:
        DataError: If there are such patients and the policy is to refuse, or if nobody else is left.
    """
    seen = seen_patients(checkpoint, manifest)
    if not seen:
        return manifest, []
    everybody = PatientCount.of(manifest)
    found = f"{len(seen)} of {everybody} are among those that the model, or its start weights, learned from"
    if policy == "refuse":
        raise DataError(
            f"{manifest.folder}: {found}, so the numbers would flatter it; seen_patients=leave_out measures on the "
            "others, seen_patients=keep on all with a note in the report"
        )
    if policy == "keep":
        return manifest, [f"{found}: the numbers flatter it"]
    rest = manifest.filter(lambda row: row.patient_id not in seen)
    if not rest.rows:
        raise DataError(f"{manifest.folder}: {found}, and nobody is left to measure on")
    return rest, [f"{found}; their {len(manifest) - len(rest)} images were left out"]
