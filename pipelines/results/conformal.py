"""Prediction sets and intervals of a fine-tuned model by conformal prediction, which gives a new checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from medvit.artifacts import MODEL_CARD, MODEL_PAGE, Checkpoint, Lineage
from medvit.cards.training_record import Adjustment
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.uncertainty.conformal import conformal_outcomes, fit_conformal
from medvit.files.atomic import write_text
from medvit.hardware import Device
from medvit.inference.adjusted_checkpoint import write_adjusted
from medvit.leakage.seen_patients import training_patients, write_training_patients
from medvit.models.conformal import ConformalMethod
from medvit.models.tile_embedder import EmbeddingConfig
from medvit.records import Split
from medvit.stage import Run, StageConfig, stage
from medvit.wsi.locations import SlidesConfig

CONFORMAL = "conformal.json"
NOTE = (
    "A set or interval contains the truth of an image of a new patient with this probability, on average over patients "
    "like those that the limits were computed from. This does not hold for each class or subgroup, nor at a site with "
    "other patients."
)


class ConformalConfig(StageConfig):
    """Options of `medvit conformal`."""

    checkpoint: Path
    """Folder of the model, made by finetune."""
    dataset: Path
    """Dataset with images that were used for nothing else: the dataset of training, made by ingest with
    splits.calibration, or another one. For an ensemble with folds, the dataset of training, whose out-of-fold
    predictions are used.
    """
    output: Path
    """New folder for the checkpoint with prediction sets, which predict and evaluate use like any other."""
    split: Split = "calibration"
    """Split to compute the limits from. In the dataset of training, only calibration is accepted."""
    method: ConformalMethod | None = None
    """Score of a class or number. lac: probability of the class, which gives the smallest sets. aps: probability of the
    class and of all more probable ones, whose sets vary more with the difficulty of an image. raps: as aps, with a
    penalty on large sets. residual: difference from the predicted number. normalized: this difference over the
    standard deviation of an ensemble. Unset: lac for classes and labels, residual for numbers.
    """
    coverage: float = Field(0.9, ge=0.5, lt=1.0)
    """Probability with which a set or interval contains the truth. 0.9 needs 9 patients, 0.95 needs 19."""
    device: Device = "auto"
    """Device to run the model on. The value auto uses the GPU if there is one."""
    slides: SlidesConfig = Field(default_factory=SlidesConfig)
    tiles: EmbeddingConfig = Field(default_factory=EmbeddingConfig)


@stage
def conformal(config: ConformalConfig, run: Run) -> Checkpoint:
    """Add prediction sets or intervals to a model by conformal prediction, from images used for nothing else."""
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
    outcomes, notes = conformal_outcomes(original, manifest, options, run.failures)
    found = fit_conformal(outcomes, original.kind, config.method, config.coverage)

    lines = [("conformal prediction", found.describe()), *([("notes", " ".join(notes))] if notes else [])]
    section = Adjustment("Prediction sets", dict(lines), NOTE)
    checkpoint = write_adjusted(original, {"conformal": found.tree()}, run.folder, final=config.output, section=section)
    write_training_patients(run.folder, outcomes.rows, training_patients(original.folder))
    lineage = Lineage.read(original.folder)
    if lineage is not None and "dataset" in lineage.inputs:
        run.inputs["dataset"] = lineage.inputs["dataset"]  # evaluate asks which dataset the model was trained on
    tree = {"conformal": found.tree(), "notes": notes}
    write_text(run.folder / CONFORMAL, json.dumps(tree, indent=2, allow_nan=False) + "\n")
    run.tracker.metrics({f"limit.{number}": limit for number, limit in enumerate(found.limits)})
    run.keep(CONFORMAL, MODEL_CARD, MODEL_PAGE)
    return replace(checkpoint, training=dict(lines))
