"""Prediction sets and intervals of a fine-tuned model by conformal prediction, which gives a new checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace

from pydantic import Field

from medvit.artifacts import MODEL_CARD, MODEL_PAGE, Checkpoint
from medvit.cards.training_record import Adjustment
from medvit.evaluation.uncertainty.conformal import conformal_outcomes, fit_conformal
from medvit.files.atomic import write_text
from medvit.models.conformal import ConformalMethod
from medvit.stage import Run, stage
from pipelines.results._adjusted import AdjustedConfig, write_model

CONFORMAL = "conformal.json"
NOTE = (
    "A set or interval contains the truth of an image of a new patient with this probability, on average over patients "
    "like those that the limits were computed from. This does not hold for each class or subgroup, nor at a site with "
    "other patients."
)


class ConformalConfig(AdjustedConfig):
    """Options of `medvit conformal`."""

    method: ConformalMethod | None = None
    """Score of a class or number. lac: probability of the class, which gives the smallest sets. aps: probability of the
    class and of all more probable ones, whose sets vary more with the difficulty of an image. raps: as aps, with a
    penalty on large sets. residual: difference from the predicted number. normalized: this difference over the
    standard deviation of an ensemble. Unset: lac for classes and labels, residual for numbers.
    """
    coverage: float = Field(0.9, ge=0.5, lt=1.0)
    """Probability with which a set or interval contains the truth. 0.9 needs 9 patients, 0.95 needs 19."""


@stage
def conformal(config: ConformalConfig, run: Run) -> Checkpoint:
    """Add prediction sets or intervals to a model by conformal prediction, from images used for nothing else."""
    original = run.checkpoint(config.checkpoint)
    manifest = run.dataset(config.dataset, "calibration")
    outcomes, notes = conformal_outcomes(original, manifest, config.prediction, run.failures)
    found = fit_conformal(outcomes, original.kind, config.method, config.coverage)

    lines = [("conformal prediction", found.describe()), *([("notes", " ".join(notes))] if notes else [])]
    section = Adjustment("Prediction sets", dict(lines), NOTE)
    checkpoint = write_model(config, run, original, {"conformal": found.tree()}, section, outcomes.rows)
    tree = {"conformal": found.tree(), "notes": notes}
    write_text(run.folder / CONFORMAL, json.dumps(tree, indent=2, allow_nan=False) + "\n")
    run.tracker.metrics({f"limit.{number}": limit for number, limit in enumerate(found.limits)})
    run.keep(CONFORMAL, MODEL_CARD, MODEL_PAGE)
    return replace(checkpoint, training=dict(lines))
