"""Selection of the images to evaluate: images with a truth, of patients that the model was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.leakage.seen_patients import seen_patients
from medvit.models.image import ModelConfig, has_truth
from medvit.models.slide import SlideModelConfig
from medvit.patients import PatientCount
from medvit.tasks import OF_NUMBERS, Target, class_list

SeenPatients = Literal["refuse", "leave_out", "keep"]


def with_known_truth(
    manifest: Manifest, model: ModelConfig | SlideModelConfig, row_kind: str
) -> tuple[Manifest, list[str]]:
    """Return the images with a truth, and a note on the excluded ones.

    The truth is a label map, a label that is one of the model's classes, a number for a regression, or time and event.
    For a multi-task model, an image needs one of its labels.

    Raises:
        DataError: If the dataset has no such images, if the classes of dataset and model differ, or if a label of a
            regression or survival prediction does not fit it.
    """
    facts = manifest.facts
    known = facts.mask_classes if model.kind == "segmentation" else facts.classes.get(model.label, ())
    if model.kind in OF_NUMBERS and not known:
        raise DataError(
            f"{manifest.folder}: the model predicts {model.label}, the dataset has no such label; evaluate it on a "
            "dataset with this label"
        )
    if model.kind == "multilabel":
        _require_same_labels(manifest, model.target)
    elif model.kind == "multitask":
        _require_same_tasks(manifest, model.target)
    elif model.kind not in OF_NUMBERS and tuple(known) != model.classes:
        raise DataError(
            f"{manifest.folder}: the model predicts classes {', '.join(model.classes)}, the dataset has "
            f"{class_list(known, 'no such label')}; evaluate it on a dataset with the same classes"
        )
    kept = manifest.filter(lambda row: row.kind == row_kind and has_truth(row, model))
    if not kept.rows:
        raise DataError(f"{manifest.folder}: no image of this split has the truth for a {model.kind}")
    left_out = len(manifest) - len(kept)
    return kept, [f"{left_out} of {len(manifest)} images of the split have no truth and were excluded"] * bool(left_out)


def _require_same_labels(manifest: Manifest, target: Target) -> None:
    """Check that no label of a multi-label classification has other classes in the dataset than in the model."""
    for label, pair in zip(target.classes, target.pairs, strict=True):
        found = manifest.facts.classes.get(label, ())
        if not set(found) <= set(pair):
            raise DataError(
                f"{manifest.folder}: the model predicts {label} with the classes {pair[0]} and {pair[1]}, the dataset "
                f"has {class_list(found)}; evaluate it on a dataset with the same classes"
            )


def _require_same_tasks(manifest: Manifest, target: Target) -> None:
    """Check that no label of a multi-task model has other classes in the dataset than in the model.

    Labels that the dataset does not have are not evaluated.
    """
    for part in target.parts:
        found = tuple(manifest.facts.classes.get(part.target.label, ()))
        if found and part.task != "regression" and found != part.target.classes:
            raise DataError(
                f"{manifest.folder}: the model predicts {part.target.label} with the classes "
                f"{', '.join(part.target.classes)}, the dataset has {class_list(found)}; evaluate it on a dataset with "
                "the same classes"
            )


def without_training_patients(manifest: Manifest, checkpoint: Path, policy: SeenPatients) -> tuple[Manifest, list[str]]:
    """Exclude the images of patients that a model was trained on, if `policy` requests it.

    Return the images, and a note if there are such patients.

    Raises:
        DataError: If there are training patients and the policy is to refuse, or if no other patient is left.
    """
    seen = seen_patients(checkpoint, manifest)
    if not seen:
        return manifest, []
    everybody = PatientCount.of(manifest)
    found = f"{len(seen)} of {everybody} are training patients of the model or of its initial weights"
    if policy == "refuse":
        raise DataError(
            f"{manifest.folder}: {found}, so the metrics would be too good; set seen_patients=leave_out to evaluate "
            "only other patients, or seen_patients=keep to evaluate all, with a note in the report"
        )
    if policy == "keep":
        return manifest, [f"{found}: the metrics are too good"]
    rest = manifest.filter(lambda row: row.patient_id not in seen)
    if not rest.rows:
        raise DataError(f"{manifest.folder}: {found}, and no other patient is left to evaluate")
    return rest, [f"{found}; their {len(manifest) - len(rest)} images were excluded"]
