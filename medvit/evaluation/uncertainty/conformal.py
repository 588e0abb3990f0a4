"""Fit of prediction sets and intervals on patients that were used for nothing else."""

from __future__ import annotations

from typing import get_args

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError
from medvit.evaluation import Evaluation
from medvit.evaluation.calibrating import held_out_outcomes, is_trained_on, truth_of
from medvit.evaluation.options import EvaluationOptions
from medvit.inference.out_of_fold import OUT_OF_FOLD
from medvit.models.conformal import (
    TASKS,
    Conformal,
    ConformalMethod,
    IntervalMethod,
    SetMethod,
    fit_intervals,
    fit_sets,
)

SPREAD = "spread"
"""Column of an evaluation with the standard deviation of the models of an ensemble."""


def conformal_outcomes(
    checkpoint: Checkpoint, manifest: Manifest, options: EvaluationOptions, failures: list[str]
) -> tuple[Evaluation, list[str]]:
    """Return true values and predictions of the calibration patients, and notes, as `held_out_outcomes`.

    Raises:
        ConfigError: As `held_out_outcomes`, or if the model has prediction sets already, or its probabilities were
            calibrated on the same patients.
        DataError: As `held_out_outcomes`.
        CheckpointError: If conformal prediction does not apply to the task of the model.
    """
    checkpoint.require(*TASKS)
    if checkpoint.model.get("conformal") is not None:
        raise ConfigError(f"{checkpoint.folder} has prediction sets already; give the checkpoint without them")
    if checkpoint.model.get("calibration") is not None and is_trained_on(checkpoint, manifest):
        raise ConfigError(
            f"the probabilities of {checkpoint.folder} were calibrated on the same patients, whose scores are then too "
            "low; give the checkpoint that finetune made, whose sets need no calibration, or another dataset"
        )
    found, notes = held_out_outcomes(checkpoint, manifest, options, failures)
    if is_trained_on(checkpoint, manifest) and (checkpoint.folder / OUT_OF_FOLD).is_dir():
        notes.insert(
            0,
            "the scores are those of models of single folds, and the best epoch of each may be chosen on the same "
            "patients: the coverage of the ensemble is then not guaranteed; check it with evaluate",
        )
    return found, notes


def fit_conformal(outcomes: Evaluation, task: str, method: ConformalMethod | None, coverage: float) -> Conformal:
    """Return the limits for the sets or intervals of a model; without a method, `lac` or `residual`.

    Raises:
        ConfigError: If the method is not for this task, or needs an ensemble and there is no spread.
        DataError: If there are fewer patients than the coverage requires.
    """
    methods = get_args(IntervalMethod if task == "regression" else SetMethod)
    chosen = method or methods[0]
    if chosen not in methods:
        raise ConfigError(f"method={chosen} is not for a model of the task {task}; give {' or '.join(methods)}")
    patients = outcomes.patients
    if task != "regression":
        return fit_sets(
            task,
            truth_of(outcomes),
            outcomes.probabilities,
            outcomes.classes,
            patients,
            method=chosen,
            coverage=coverage,
        )
    if chosen == "normalized" and SPREAD not in outcomes.columns:
        raise ConfigError(
            "method=normalized needs predictions of several models for each image, and there is only one; train an "
            "ensemble and give images of the split calibration or of another dataset, or use method=residual"
        )
    table = outcomes.columns
    truth, predicted, spreads = table["truth"], table["predicted"], table.get(SPREAD)
    return fit_intervals(truth, predicted, spreads, patients, method=chosen, coverage=coverage)
