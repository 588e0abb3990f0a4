"""Caveats of an evaluation: different pixel values, training patients, near duplicates, assumed patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.leakage import find_overlaps
from medvit.leakage.seen_patients import seen_patients, training_patients
from medvit.models.image import ModelConfig
from medvit.models.slide import SlideModelConfig
from medvit.patients import PatientCount
from medvit.readers.options import ValuesConfig
from medvit.records import Split

NEAR_DUPLICATES = "near duplicates"
"""Words by which caveats about near duplicates are recognized."""


def caveats(manifest: Manifest, measured: Manifest, model: ModelConfig | SlideModelConfig, split: Split) -> list[str]:
    """Return notes for readers: on pixel values other than in training, assumed patients, copies of training images."""
    notes = other_values(manifest, model) + assumed_patients_note(measured)
    return notes + near_duplicates_in_training(manifest, measured, split)


def other_values(manifest: Manifest, model: ModelConfig | SlideModelConfig) -> list[str]:
    """Return a note if the dataset was ingested with other `values.*` than the images that the model was trained on."""
    if isinstance(model, SlideModelConfig):
        return []
    here = ValuesConfig.parse(manifest.facts.values).set_options or ["no values.*"]
    there = (
        ["values.* that its version did not record"]
        if model.values is None
        else model.values.set_options or ["no values.*"]
    )
    if model.values is None and not manifest.facts.values:
        return []
    return [
        f"the dataset was ingested with {', '.join(here)}, the training images of the model with {', '.join(there)}: "
        "equal pixel values may differ in meaning"
    ] * (here != there)


def shared_patients(manifest: Manifest, split: Split) -> list[str]:
    """Return a note on patients of a split who also have images in the train split: the model has seen them."""
    if split == "train":
        return []
    known = {row.patient_in_any_source for row in manifest if row.split == "train"}
    both = {row.patient_id for row in manifest if row.split == split and row.patient_in_any_source in known}
    count = PatientCount.of(row for row in manifest if row.patient_id in both)
    found = f"{count} of this split {'has' if count.total == 1 else 'have'} images in the train split too"
    return [f"{found}; the metrics may be too good"] * bool(both)


def assumed_patients_note(measured: Manifest) -> list[str]:
    """Return a note if patients are assumed for lack of an identifier.

    Intervals over patients, and splits by patient, are then only as good as this assumption.
    """
    note = PatientCount.of(measured).note
    return [f"{note}: intervals may then be too narrow, and the model may have seen the person"] * bool(note)


def near_duplicates_in_training(manifest: Manifest, measured: Manifest, split: Split) -> list[str]:
    """Return a note on images of a split that have a copy or near duplicate in the train split.

    Such images may make the metrics too good. If pixels cannot be read, the note states that the search failed.
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
    found = f"{len(known)} of {len(measured)} evaluated images have copies or near duplicates in the train split"
    return [f"{found}; the metrics may be too good (`medvit leakage` lists them)"] * bool(known)


def training_patients_check(measured: Manifest, checkpoint: Path) -> str:
    """Return how many patients of the images a model was trained on, as far as its folder records them."""
    known, count = training_patients(checkpoint), PatientCount.of(measured)
    if not known:
        return f"The model records no training patients, so it is unknown whether it was trained on any of {count}."
    num_seen = len(seen_patients(checkpoint, measured))
    return (
        f"{num_seen} of {count} are among the training patients of the model and its initial weights, of which it "
        f"records {len(known)} pseudonyms. Patients without a common identifier cannot be recognized."
    )


def near_duplicates_check(doubts: Sequence[str], *, is_same: bool, split: Split) -> str:
    """Return the result of the search for near duplicates, given the caveats (`caveats`) of an evaluation.

    `is_same` states whether the model was trained on the train split of the same dataset.
    """
    found = [doubt for doubt in doubts if NEAR_DUPLICATES in doubt]
    if split == "train":
        return "Near duplicates were not searched for, since these are images of the train split."
    if found:
        return f"{found[0][0].upper()}{found[0][1:]}."
    here = "No evaluated image has a copy or near duplicate in the train split of this dataset."
    elsewhere = (
        " The training images of the model are in another dataset, with which the images were not compared; `medvit "
        "leakage` compares two datasets."
    )
    return here + ("" if is_same else elsewhere)
