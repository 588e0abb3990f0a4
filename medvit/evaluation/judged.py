"""Predictions to evaluate: a model on a split of a dataset, or predictions out of fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from medvit.artifacts import Checkpoint, Lineage
from medvit.dataset.manifest import Manifest
from medvit.evaluation.caveats import (
    assumed_patients_note,
    caveats,
    near_duplicates_check,
    other_values,
    shared_patients,
    training_patients_check,
)
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.selection import with_known_truth, without_training_patients
from medvit.inference.out_of_fold import StoredPredictions
from medvit.inference.predictor import Predictor
from medvit.inference.slide_predictor import SlidePredictor
from medvit.records import Split
from medvit.tasks import TaskName

OUT_OF_FOLD: Literal["out_of_fold"] = "out_of_fold"
SELECTED = (
    "each patient was predicted by models that were not trained on it; the best epoch (keep=best) and the classes with "
    "largest_components, if used, were chosen on the same patients, which makes the metrics slightly too good"
)


@dataclass(frozen=True)
class Judged:
    """Images to evaluate, and the model or the stored predictions that predict them."""

    predictor: Predictor | SlidePredictor | StoredPredictions
    measured: Manifest
    """Images with a truth."""
    split: Split | Literal["out_of_fold"]
    notes: tuple[str, ...]
    """Notes on excluded images, for the report."""
    doubts: tuple[str, ...]
    """Reasons to doubt the metrics, for the report and the log."""
    model_hash: str
    trained_on: str
    """Text for the report about the images that the model was trained on."""
    warning: str = ""
    """Warning for the report that the model was trained or selected on the images; empty if it was not."""
    checks: tuple[str, ...] = ()
    """Checks for training patients and near duplicates, with their results, for the report."""
    is_same_dataset: bool = True
    """Whether the model was trained on the train split of the same dataset."""


def judge_checkpoint(checkpoint: Checkpoint, manifest: Manifest, options: EvaluationOptions) -> Judged:
    """Return the model of a checkpoint and the images to evaluate: those of a split that have a truth.

    In the test split, `options.seen_patients` decides about patients that the model was trained on.

    Raises:
        DataError: If there are no such images, the classes of dataset and model differ, or training patients are
            refused.
    """
    checkpoint.require(*get_args(TaskName), "slide")
    predictor = (SlidePredictor if checkpoint.kind == "slide" else Predictor)(checkpoint, options.device)
    measured, notes = with_known_truth(manifest.split(options.split), predictor.config, predictor.kind)
    checks = [training_patients_check(measured, checkpoint.folder)]
    if options.split == "test":
        measured, excluded = without_training_patients(measured, checkpoint.folder, options.seen_patients)
        notes += excluded
    lineage = Lineage.read(checkpoint.folder)
    is_same = lineage is not None and lineage.inputs.get("dataset") == manifest.hash
    doubts = caveats(manifest, measured, predictor.config, options.split)
    checks.append(near_duplicates_check(doubts, is_same=is_same, split=options.split))
    return Judged(
        predictor,
        measured,
        options.split,
        (*notes, *shared_patients(manifest, options.split)),
        tuple(doubts),
        checkpoint.hash,
        "the train split of the same dataset" if is_same else "another dataset",
        _warning(options.split, is_same=is_same),
        tuple(checks),
        is_same,
    )


def judge_predictions(predictions: StoredPredictions, manifest: Manifest) -> Judged:
    """Return out-of-fold predictions and the images that they cover.

    Raises:
        DataError: If the predictions were made on another dataset.
    """
    measured, notes = with_known_truth(predictions.images_of(manifest), predictions.config, predictions.kind)
    doubts = [*other_values(manifest, predictions.config), *assumed_patients_note(measured)]
    if predictions.num_pretrained:
        doubts.append(
            f"the initial weights of the models were trained on images of {predictions.num_pretrained} of these "
            "patients: the metrics may be better than for new patients"
        )
    trained_on = "the other folds of the same dataset"
    return Judged(
        predictions, measured, OUT_OF_FOLD, (*notes, SELECTED), tuple(doubts), predictions.model_hash, trained_on
    )


def _warning(split: Split, *, is_same: bool) -> str:
    if is_same and split != "test":
        use = "was trained on" if split == "train" else "was selected by"
        return f"These are images of the {split} split: the model {use} them, so the metrics are too good."
    if split == "train":
        return "These are images of a train split: if the model was trained on any of them, the metrics are too good."
    return ""
