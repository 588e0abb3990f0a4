"""Predictions of the validation split, on which thresholds are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medvit.artifacts import CONFIG
from medvit.config import read_yaml
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.evaluation import Evaluation
from medvit.evaluation.judged import Judged
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.run import Measurement
from medvit.evaluation.selection import with_known_truth, without_training_patients
from medvit.inference.out_of_fold import OUT_OF_FOLD, StoredPredictions

FOLDS = (
    "the operating points were chosen on out-of-fold predictions, because the models of the ensemble were trained on "
    "parts of the val split; the averaged probabilities of the ensemble may be less extreme"
)


def validation_outcomes(
    judged: Judged, manifest: Manifest, options: EvaluationOptions, failures: list[str]
) -> tuple[Evaluation, list[str]]:
    """Return true classes and probabilities of the validation split, and notes.

    For an ensemble with folds, these are its out-of-fold predictions of the train and val splits. On a dataset that
    the model was not trained on, training patients are excluded.

    Raises:
        ConfigError: If the evaluated images are those of the validation split, or out-of-fold predictions.
        DataError: If the validation split has no images with a truth, or the model was trained on them.
    """
    if options.checkpoint is None or judged.split == "val":
        raise ConfigError(
            "operating points are chosen on the val split and cannot be evaluated on the same images; evaluate "
            "checkpoint=FOLDER on split=test, or give operating.report"
        )
    folder = options.checkpoint
    if not judged.is_same_dataset:
        images, notes = _labeled(manifest.split("val"), judged)
        images, excluded = without_training_patients(images, folder, "leave_out")
        return _outcomes(judged, images, options, [*notes, *excluded], failures)
    if (folder / OUT_OF_FOLD).is_dir():
        stored = StoredPredictions.read(folder / OUT_OF_FOLD)
        images, notes = _labeled(stored.images_of(manifest), judged)
        found, notes = _outcomes(replace(judged, predictor=stored), images, options, notes, failures)
        return found, [FOLDS, *notes]
    if has_folds(folder):
        raise DataError(
            f"{folder} is an ensemble with folds, whose models were trained on parts of the val split; operating "
            "points need a model that was trained without folds"
        )
    images, notes = _labeled(manifest.split("val"), judged)
    return _outcomes(judged, images, options, notes, failures)


def _labeled(images: Manifest, judged: Judged) -> tuple[Manifest, list[str]]:
    if not images.rows:
        raise DataError(
            f"{images.folder} has no val split, on which operating points are chosen; ingest with splits.val, or give "
            "operating.report"
        )
    return with_known_truth(images, judged.predictor.config, judged.predictor.kind)


def _outcomes(
    judged: Judged, images: Manifest, options: EvaluationOptions, notes: Sequence[str], failures: list[str]
) -> tuple[Evaluation, list[str]]:
    found = Measurement(images, options, 0, (), failures).outcomes(judged.predictor)
    return found, [f"val split: {note}" for note in (*notes, *found.notes)]


def has_folds(checkpoint: Path) -> bool:
    """Return whether a checkpoint was trained with folds, according to its options."""
    path = checkpoint / CONFIG
    return path.is_file() and bool(read_yaml(path).get("folds"))
