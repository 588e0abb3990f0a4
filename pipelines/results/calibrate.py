"""Calibration of the predicted probabilities of a fine-tuned model, which gives a new checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from medvit.artifacts import (
    ADAPTER,
    FIGURES,
    FINGERPRINT,
    MODEL_CARD,
    MODEL_PAGE,
    TRAINING,
    WEIGHTS,
    Checkpoint,
    Lineage,
)
from medvit.cards.model import model_document, write_pages
from medvit.cards.training_record import TrainingRecord
from medvit.config import Tree
from medvit.document import inert
from medvit.errors import ConfigError
from medvit.evaluation.calibrating import Calibrated, calibrate_outcomes, calibration_outcomes
from medvit.evaluation.operating.validation import has_folds
from medvit.evaluation.options import EvaluationOptions
from medvit.files.atomic import write_text
from medvit.hardware import Device
from medvit.inference.out_of_fold import DESCRIPTION, OUT_OF_FOLD
from medvit.leakage.seen_patients import training_patients, write_training_patients
from medvit.models.base import ITSELF
from medvit.models.calibration import CalibrationMethod
from medvit.models.tile_embedder import EmbeddingConfig
from medvit.records import Split
from medvit.stage import Run, StageConfig, stage
from medvit.statistics import Estimate
from medvit.wsi.locations import SlidesConfig

CALIBRATION = "calibration.json"
COPIED = (WEIGHTS, ADAPTER, FIGURES, FINGERPRINT)


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
    _require_no_hidden_folds(original)
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

    checkpoint = _copy(original, found, run.folder, config.output)
    write_training_patients(run.folder, outcomes.rows, training_patients(original.folder))
    lineage = Lineage.read(original.folder)
    if lineage is not None and "dataset" in lineage.inputs:
        run.inputs["dataset"] = lineage.inputs["dataset"]  # evaluate asks which dataset the model was trained on
    _write_numbers(run.folder, found)
    run.tracker.metrics({f"{when}.{name}": one.value for when, each in _each(found) for name, one in each.items()})
    run.keep(CALIBRATION, MODEL_CARD, MODEL_PAGE, TRAINING)
    return replace(checkpoint, training=dict(found.lines()))


def _copy(original: Checkpoint, found: Calibrated, folder: Path, final: Path) -> Checkpoint:
    """Write the checkpoint with the calibration in `model.yaml`; its weights are copied unchanged."""
    for name in COPIED:
        if (original.folder / name).is_file():
            shutil.copyfile(original.folder / name, folder / name)
    model: Tree = {**original.model, "calibration": found.calibration.tree()}
    base = model.get("base")
    if base and base["folder"] != ITSELF:
        place = (original.folder / base["folder"]).resolve()
        model["base"] = {**base, "folder": os.path.relpath(place, final.absolute())}
    checkpoint = Checkpoint(folder, model, original.preprocess, original.state, original.adapter)
    checkpoint.save_description()
    if (original.folder / OUT_OF_FOLD).is_dir():
        _copy_out_of_fold(original.folder / OUT_OF_FOLD, folder / OUT_OF_FOLD, checkpoint)
    record = TrainingRecord.read(original.folder)
    if record is not None:
        again = replace(record, calibration=dict(found.lines()))
        again.write(folder)
        write_pages(model_document(checkpoint, again), folder)
        return checkpoint
    card = original.folder / MODEL_CARD  # of an earlier version, which has no record
    text = card.read_text(encoding="utf-8").rstrip("\n") + "\n" if card.is_file() else ""
    lines = [f"- {name}: {inert(each)}" for name, each in found.lines()]
    own = ["", "## Calibration", "", *lines, "", "Values after calibration are from cross-validation over patients."]
    write_text(folder / MODEL_CARD, text + "\n".join(own) + "\n")
    return checkpoint


def _copy_out_of_fold(source: Path, folder: Path, checkpoint: Checkpoint) -> None:
    """Copy out-of-fold predictions, whose description then has the calibration, so that they are calibrated, too."""
    if not folder.exists():
        shutil.copytree(source, folder)
    description = json.loads((source / DESCRIPTION).read_text(encoding="utf-8"))
    description |= {"checkpoint": checkpoint.hash, "model": checkpoint.model}
    write_text(folder / DESCRIPTION, json.dumps(description, indent=2, sort_keys=True) + "\n")


def _write_numbers(folder: Path, found: Calibrated) -> None:
    numbers = {when: {name: one.plain_interval for name, one in each.items()} for when, each in _each(found)}
    tree = {"calibration": found.calibration.tree(), **numbers, "notes": list(found.notes)}
    write_text(folder / CALIBRATION, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def _each(found: Calibrated) -> tuple[tuple[str, Mapping[str, Estimate]], ...]:
    return ("before", found.before), ("after", found.after)


def _require_no_hidden_folds(checkpoint: Checkpoint) -> None:
    """Check that a model of slides was trained without folds, which the new checkpoint does not record.

    Raises:
        ConfigError: If it was.
    """
    if checkpoint.kind == "slide" and has_folds(checkpoint.folder):
        raise ConfigError("a model of slides with folds cannot be calibrated; train it without folds")
