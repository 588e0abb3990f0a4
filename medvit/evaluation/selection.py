"""Which images an evaluation measures on, which are worth a look, and what else a reader must know of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.evaluation import Estimate, Evaluation
from medvit.leakage import find_overlaps
from medvit.leakage.seen_patients import seen_patients
from medvit.metrics import LengthUnit, is_of_positive
from medvit.models.image import ModelConfig
from medvit.models.slide import SlideModelConfig
from medvit.patients import PatientCount
from medvit.readers.options import ValuesConfig
from medvit.records import Split
from medvit.types import Image

SeenPatients = Literal["refuse", "leave_out", "keep"]


def examples_to_show(scores: Float[Array, "n"]) -> dict[str, int]:
    """Return the best, the median and the worst by a score, by their places; nothing where no score is defined."""
    order = [int(index) for index in np.argsort(scores) if not np.isnan(scores[index])]
    return {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]} if order else {}


def probability_of_truth(evaluation: Evaluation) -> Float[Array, "n"]:
    """Return what the model gave the true class of each image."""
    probabilities = np.stack([evaluation.columns[f"p.{name}"] for name in evaluation.classes], axis=1)
    return probabilities[np.arange(len(probabilities)), evaluation.columns["truth"]]


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


def other_values(manifest: Manifest, model: ModelConfig | SlideModelConfig) -> list[str]:
    """Note where the dataset was ingested with other `values.*` than the images that the model was trained on."""
    if isinstance(model, SlideModelConfig):
        return []
    here, there = (
        values.said or ["no values.*"] for values in (ValuesConfig.parse(manifest.facts.values), model.values)
    )
    return [
        f"the dataset was ingested with {', '.join(here)}, the training images of the model with {', '.join(there)}: "
        "equal pixel values may mean different things"
    ] * (here != there)


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


def shared_patients(manifest: Manifest, split: Split) -> list[str]:
    """Return a note on patients of a split who also have images in the train split: the model may know them."""
    if split == "train":
        return []
    known = {row.patient_in_any_source for row in manifest if row.split == "train"}
    both = {row.patient_id for row in manifest if row.split == split and row.patient_in_any_source in known}
    count = PatientCount.of(row for row in manifest if row.patient_id in both)
    found = f"{count} of this split {'has' if count.total == 1 else 'have'} images in the train split too"
    return [f"{found}; the numbers may flatter"] * bool(both)


def assumed_patients_note(measured: Manifest) -> list[str]:
    """Return a note on patients that nothing names.

    Intervals over them, and splits by them, are as good as the assumption.
    """
    note = PatientCount.of(measured).note
    return [f"{note}: intervals may then be too narrow, and the model may know the person"] * bool(note)


def near_duplicates_in_training(manifest: Manifest, measured: Manifest, split: Split) -> list[str]:
    """Return a note on images of a split that have a copy or near duplicate in the train split.

    The model may know them.

    Where pixels cannot be read, the note says that the search failed.
    """
    images = manifest.filter(lambda row: row.kind != "slide" and row.split in (split, "train"))
    if split == "train" or not images.rows:
        return []
    try:
        overlaps = find_overlaps({"": images}, ("pixel", "perceptual"))
    except DataError as error:
        return [f"near duplicates of images of the train split could not be searched for: {error}"]
    known: set[str] = set()
    for overlap in overlaps:
        if any(member.row.split == "train" for member in overlap.members):
            known |= {member.row.image_id for member in overlap.members if member.row.split == split}
    known &= {row.image_id for row in measured}
    found = f"{len(known)} of {len(measured)} images measured have copies or near duplicates in the train split"
    return [f"{found}; the numbers may flatter (`medvit leakage` lists them)"] * bool(known)


def choose_positive(
    classes: Sequence[str], *, asked: str, worst: str, model: str, dataset: str
) -> tuple[str, list[str]]:
    """Return which of two classes is positive, and a note where nobody said; empty of other numbers of classes.

    That is what the user `asked` for, else the `worst` of an order, else what the `model` or the `dataset` remembers.

    Raises:
        ConfigError: If there are not two classes, or none of this name, or order and positive differ.
    """
    if asked and (len(classes) != 2 or asked not in classes):
        raise ConfigError(f"positive={asked} is not one of two classes; the model has {', '.join(classes)}")
    if len(classes) != 2:
        return "", []
    if asked and worst in classes and worst != asked:
        raise ConfigError(f"positive={asked}, and order says that {worst} is the worst; give one of them")
    said = [name for name in (asked, worst, model, dataset) if name in classes]
    if said:
        return said[0], []
    last = classes[1]
    return last, [
        f"nobody said which class is positive: sensitivity, specificity and average precision are those of {last}, the "
        f"last of the classes; positive={classes[0]} gives those of the other"
    ]


def tracked(metrics: Mapping[str, Estimate], split: Split, positive: str = "") -> dict[str, float]:
    """Return the numbers that are defined, as MLflow gets them: `test.dice`, `test.dice.low`, `test.dice.high`.

    What is of the positive one of two classes has its name: `test.sensitivity.cancer`.
    """
    metrics = {f"{name}.{positive}" if positive and is_of_positive(name) else name: e for name, e in metrics.items()}
    parts = {"": "value", ".low": "low", ".high": "high"}
    found = {f"{split}.{name}{end}": getattr(e, part) for name, e in metrics.items() for end, part in parts.items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def unit_of(manifest: Manifest) -> LengthUnit:
    """Millimeters where every image has a physical scale, else pixels: the two cannot be averaged."""
    return "mm" if all(row.affine is not None or row.mpp is not None for row in manifest) else "px"


def spacing(image: Image, unit: LengthUnit) -> tuple[float, ...]:
    """Distance between neighboring pixels or voxels, in a unit."""
    num_axes = image.pixels.ndim - 1
    if unit == "px":
        return (1.0,) * num_axes
    return image.affine.spacing_mm if image.affine is not None else ((image.mpp or 0.0) / 1000.0,) * num_axes
