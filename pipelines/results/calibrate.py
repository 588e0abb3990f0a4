"""Calibration of the predicted probabilities of a fine-tuned model, which gives a new checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from medvit.artifacts import MODEL_CARD, MODEL_PAGE, Checkpoint, Lineage
from medvit.cards.training_record import Adjustment
from medvit.evaluation.calibrating import Calibrated, calibrate_outcomes, calibration_outcomes
from medvit.evaluation.options import EvaluationOptions
from medvit.files.atomic import write_text
from medvit.hardware import Device
from medvit.inference.adjusted_checkpoint import write_adjusted
from medvit.leakage.seen_patients import training_patients, write_training_patients
from medvit.models.calibration import CalibrationMethod
from medvit.models.tile_embedder import EmbeddingConfig
from medvit.records import Split
from medvit.stage import Run, StageConfig, stage
from medvit.statistics import Estimate
from medvit.wsi.locations import SlidesConfig

CALIBRATION = "calibration.json"


class CalibrateConfig(StageConfig):
    """Options of `medvit calibrate`."""

    checkpoint: Path
    """Folder of the model, made by finetune."""
    dataset: Path
    """Dataset with images that were used for nothing else: the dataset of training, made by ingest with
    splits.calibration, or another one. For an ensemble with folds, the dataset of training, whose out-of-fold
    predictions are used.
    """
    output: Path
    """New folder for the calibrated checkpoint, which predict and evaluate use like any other."""
    split: Split = "calibration"
    """Split to calibrate on. In the dataset of training, only calibration is accepted."""
    method: CalibrationMethod | None = None
    """Method. temperature: divide the logits by one number. isotonic: increasing function of the probability, for two
    classes and for labels. Unset: isotonic from 1,000 patients on, where it is possible, else temperature.
    """
    resamples: int = Field(2000, ge=100)
    """Number of bootstrap resamples for the confidence intervals."""
    device: Device = "auto"
    """Device to run the model on. The value auto uses the GPU if there is one."""
    slides: SlidesConfig = Field(default_factory=SlidesConfig)
    tiles: EmbeddingConfig = Field(default_factory=EmbeddingConfig)


@stage
def calibrate(config: CalibrateConfig, run: Run) -> Checkpoint:
    """Calibrate the predicted probabilities of a model on images that were used for nothing else."""
    original = run.checkpoint(config.checkpoint)
    manifest = run.dataset(config.dataset, "calibration")
    options = EvaluationOptions(
        checkpoint=config.checkpoint,
        dataset=config.dataset,
        output=config.output,
        split=config.split,
        device=config.device,
        slides=config.slides,
        tiles=config.tiles,
    )
    outcomes, notes = calibration_outcomes(original, manifest, options, run.failures)
    how = {"resamples": config.resamples, "seed": config.seed}
    found = calibrate_outcomes(outcomes, original.kind, config.method, notes, **how)

    note = "Values after calibration are from cross-validation over patients."
    section = Adjustment("Calibration", dict(found.lines()), note)
    added = {"calibration": found.calibration.tree()}
    checkpoint = write_adjusted(original, added, run.folder, final=config.output, section=section)
    write_training_patients(run.folder, outcomes.rows, training_patients(original.folder))
    lineage = Lineage.read(original.folder)
    if lineage is not None and "dataset" in lineage.inputs:
        run.inputs["dataset"] = lineage.inputs["dataset"]  # evaluate asks which dataset the model was trained on
    _write_numbers(run.folder, found)
    run.tracker.metrics({f"{when}.{name}": one.value for when, each in _each(found) for name, one in each.items()})
    run.keep(CALIBRATION, MODEL_CARD, MODEL_PAGE)
    return replace(checkpoint, training=dict(found.lines()))


def _write_numbers(folder: Path, found: Calibrated) -> None:
    numbers = {when: {name: one.plain_interval for name, one in each.items()} for when, each in _each(found)}
    tree = {"calibration": found.calibration.tree(), **numbers, "notes": list(found.notes)}
    write_text(folder / CALIBRATION, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def _each(found: Calibrated) -> tuple[tuple[str, Mapping[str, Estimate]], ...]:
    return ("before", found.before), ("after", found.after)
