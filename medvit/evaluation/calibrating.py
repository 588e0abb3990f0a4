"""Fit of a calibration: on images that were used for nothing else, with its effect estimated by cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Num
from numpy import ndarray as Array

from medvit.artifacts import Checkpoint, Lineage
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.evaluation import Evaluation
from medvit.evaluation.operating.validation import has_folds
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.run import Measurement
from medvit.evaluation.selection import with_known_truth, without_training_patients
from medvit.inference.out_of_fold import OUT_OF_FOLD, StoredPredictions
from medvit.inference.predictor import Predictor
from medvit.inference.slide_predictor import SlidePredictor
from medvit.metrics.calibration.brier import brier
from medvit.metrics.ece import expected_calibration_error
from medvit.models.calibration import MIN_PATIENTS, TASKS, Calibration, CalibrationMethod, fit_calibration, log_loss
from medvit.statistics import Estimate
from medvit.statistics.bootstrap import bootstrap

NUM_PARTS = 5
"""Number of parts of the cross-validation, by patient."""
TITLES = {"log_loss": "log loss", "brier": "Brier score", "ece": "expected calibration error"}


@dataclass(frozen=True)
class Calibrated:
    """Calibration with the metrics of its images before and after it; `after` is from cross-validation."""

    calibration: Calibration
    outcomes: Evaluation
    before: Mapping[str, Estimate]
    after: Mapping[str, Estimate]
    notes: tuple[str, ...]

    def lines(self) -> list[tuple[str, str]]:
        """Return pairs of a name and a text, for the summary and the model card."""
        changes = [(TITLES[name], f"{self.before[name]} before, {self.after[name]} after") for name in self.before]
        return [("calibration", self.calibration.describe()), *changes]


def calibration_outcomes(
    checkpoint: Checkpoint, manifest: Manifest, options: EvaluationOptions, failures: list[str]
) -> tuple[Evaluation, list[str]]:
    """Return true classes and probabilities of the images to calibrate on, and notes, as `held_out_outcomes`.

    Raises:
        ConfigError: As `held_out_outcomes`, or if the checkpoint is calibrated or has prediction sets already.
        DataError: As `held_out_outcomes`.
    """
    checkpoint.require(*TASKS)
    if checkpoint.model.get("calibration") is not None:
        raise ConfigError(f"{checkpoint.folder} is calibrated already; give the checkpoint that finetune made")
    if checkpoint.model.get("conformal") is not None:
        raise ConfigError(
            f"{checkpoint.folder} has prediction sets, which belong to its probabilities; give the checkpoint that "
            "finetune made, and run medvit conformal on the calibrated one, with other patients"
        )
    return held_out_outcomes(checkpoint, manifest, options, failures)


def held_out_outcomes(
    checkpoint: Checkpoint, manifest: Manifest, options: EvaluationOptions, failures: list[str]
) -> tuple[Evaluation, list[str]]:
    """Return true values and predictions of images that were used for nothing else, and notes.

    On the dataset that the model was trained on, these are the images of the split `calibration` or, for an ensemble
    with folds, its out-of-fold predictions. On another dataset, they are those of the split in the options, without
    training patients.

    Raises:
        ConfigError: If another split of the training dataset is requested, whose images were used before, or the model
            is one of slides with folds, which a new checkpoint does not record.
        DataError: If there are no such images.
    """
    if checkpoint.kind == "slide" and has_folds(checkpoint.folder):
        raise ConfigError("a model of slides with folds cannot be calibrated; train it without folds")
    predictor = (SlidePredictor if checkpoint.kind == "slide" else Predictor)(checkpoint, options.device)
    if is_trained_on(checkpoint, manifest):
        if (checkpoint.folder / OUT_OF_FOLD).is_dir():
            stored = StoredPredictions.read(checkpoint.folder / OUT_OF_FOLD)
            images, notes = with_known_truth(stored.images_of(manifest), stored.config, stored.kind)
            found = Measurement(images, options, 0, (), failures).outcomes(stored)
            note = "fitted on out-of-fold predictions of single models; the ensemble may be slightly less confident"
            return found, [note, *notes, *found.notes]
        if options.split != "calibration":
            raise ConfigError(
                f"the model was trained or selected on the {options.split} split, or will be tested on it; ingest with "
                "splits.calibration=0.1 and train again, or give another dataset"
            )
    part = manifest.split(options.split)
    images, notes = with_known_truth(part, predictor.config, predictor.kind)
    images, excluded = without_training_patients(images, checkpoint.folder, "leave_out")
    found = Measurement(images, options, 0, (), failures).outcomes(predictor)
    return found, [*notes, *excluded, *found.notes]


def is_trained_on(checkpoint: Checkpoint, manifest: Manifest) -> bool:
    """Return whether a checkpoint was trained on a dataset."""
    lineage = Lineage.read(checkpoint.folder)
    return lineage is not None and lineage.inputs.get("dataset") == manifest.hash


def calibrate_outcomes(
    outcomes: Evaluation,
    task: str,
    method: CalibrationMethod | None,
    notes: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> Calibrated:
    """Fit the calibration, and estimate its effect by cross-validation over patients.

    Raises:
        DataError: If there are too few patients.
    """
    truth, probabilities = truth_of(outcomes), outcomes.probabilities
    patients = [row.patient_id for row in outcomes.rows]
    calibration = fit_calibration(task, truth, probabilities, patients, method)
    after = cross_calibrated(task, truth, probabilities, patients, calibration.method, seed)
    before, adjusted = (
        bootstrap(partial(_metrics_at, task, truth, found), patients, resamples=resamples, seed=seed)
        for found in (probabilities, after)
    )
    return Calibrated(calibration, outcomes, before, adjusted, tuple(notes))


def _metrics_at(task: str, truth: Array, probabilities: Array, drawn: Array) -> dict[str, float]:
    return calibration_metrics(task, truth[drawn], probabilities[drawn])


def truth_of(outcomes: Evaluation) -> Num[Array, "n"] | Float[Array, "n l"]:
    """Return class indices or, for several labels, 1, 0, or NaN for a missing label."""
    if outcomes.kind == "multilabel":
        return outcomes.label_truth
    return outcomes.truth


def cross_calibrated(
    task: str,
    truth: Array,
    probabilities: Float[Array, "n l"],
    patients: Sequence[str],
    method: CalibrationMethod,
    seed: int,
) -> Float[Array, "n l"]:
    """Return probabilities that are calibrated on other patients: each part of them on the other parts.

    Raises:
        DataError: If the other parts have too few patients.
    """
    names, member = np.unique(np.array(patients), return_inverse=True)
    if len(names) * (NUM_PARTS - 1) < MIN_PATIENTS * NUM_PARTS:
        least = -(-MIN_PATIENTS * NUM_PARTS // (NUM_PARTS - 1))
        raise DataError(f"a calibration with cross-validation needs at least {least} patients; found {len(names)}")
    part = np.random.default_rng(seed).permutation(np.arange(len(names)) % NUM_PARTS)[member]
    after = np.array(probabilities)
    for number in range(NUM_PARTS):
        others, own = np.flatnonzero(part != number), np.flatnonzero(part == number)
        known = [patients[int(index)] for index in others]
        found = fit_calibration(task, truth[others], probabilities[others], known, method)
        after[own] = found.apply(task, probabilities[own])
    return after


def calibration_metrics(task: str, truth: Array, probabilities: Float[Array, "n l"]) -> dict[str, float]:
    """Return log loss, Brier score and expected calibration error; for several labels, means over the labels."""
    found = {"log_loss": log_loss(task, truth, probabilities)}
    if task != "multilabel":
        return found | {
            "brier": brier(truth, probabilities),
            "ece": expected_calibration_error(truth, probabilities),
        }
    pairs = []
    for label, values in zip(truth.T, probabilities.T, strict=True):
        known = ~np.isnan(label)
        pairs.append((label[known].astype(int), np.stack([1.0 - values[known], values[known]], axis=1)))
    known_pairs = [pair for pair in pairs if len(pair[0])]
    for name, measured in {"brier": brier, "ece": expected_calibration_error}.items():
        found[name] = float(np.mean([measured(*pair) for pair in known_pairs]))
    return found
