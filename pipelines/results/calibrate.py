"""Calibration of the predicted probabilities of a fine-tuned model, which gives a new checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from medvit.artifacts import MODEL_CARD, MODEL_PAGE, Checkpoint
from medvit.cards.training_record import Adjustment
from medvit.evaluation.calibrating import Calibrated, calibrate_outcomes, calibration_outcomes
from medvit.files.atomic import write_text
from medvit.models.calibration import CalibrationMethod
from medvit.stage import Run, stage
from medvit.statistics import Estimate
from pipelines.results._adjusted import AdjustedConfig, write_model

CALIBRATION = "calibration.json"


class CalibrateConfig(AdjustedConfig):
    """Options of `medvit calibrate`."""

    method: CalibrationMethod | None = None
    """Method. temperature: divide the logits by one number. isotonic: increasing function of the probability, for two
    classes and for labels. Unset: isotonic from 1,000 patients on, where it is possible, else temperature.
    """
    resamples: int = Field(2000, ge=100)
    """Number of bootstrap resamples for the confidence intervals."""


@stage
def calibrate(config: CalibrateConfig, run: Run) -> Checkpoint:
    """Calibrate the predicted probabilities of a model on images that were used for nothing else."""
    original = run.checkpoint(config.checkpoint)
    manifest = run.dataset(config.dataset, "calibration")
    outcomes, notes = calibration_outcomes(original, manifest, config.prediction, run.failures)
    how = {"resamples": config.resamples, "seed": config.seed}
    found = calibrate_outcomes(outcomes, original.kind, config.method, notes, **how)

    note = "Values after calibration are from cross-validation over patients."
    section = Adjustment("Calibration", dict(found.lines()), note)
    added = {"calibration": found.calibration.tree()}
    checkpoint = write_model(config, run, original, added, section, outcomes.rows)
    _write_numbers(run.folder, found)
    for when, each in _each(found):
        for name, one in each.items():
            run.tracker.metrics(one.named(f"{when}.{name}"))
    run.keep(CALIBRATION, MODEL_CARD, MODEL_PAGE)
    return replace(checkpoint, training=dict(found.lines()))


def _write_numbers(folder: Path, found: Calibrated) -> None:
    numbers = {when: {name: one.plain_interval for name, one in each.items()} for when, each in _each(found)}
    tree = {"calibration": found.calibration.tree(), **numbers, "notes": list(found.notes)}
    write_text(folder / CALIBRATION, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def _each(found: Calibrated) -> tuple[tuple[str, Mapping[str, Estimate]], ...]:
    return ("before", found.before), ("after", found.after)
