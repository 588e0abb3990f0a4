"""Evaluation of a fine-tuned model on one split of a dataset."""

from __future__ import annotations

import logging
from typing import ClassVar

from medvit.artifacts import METRICS, Report
from medvit.evaluation.caveats import caveats, shared_patients
from medvit.evaluation.examples import examples
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.paired import compare
from medvit.evaluation.report import HTML, write_report
from medvit.evaluation.run import Measurement
from medvit.evaluation.selection import with_known_truth, without_training_patients
from medvit.evaluation.subject import read_other, report_subject, surface_tolerance
from medvit.evaluation.summary import summary_lines, tables, tracked
from medvit.inference.predictor import Predictor
from medvit.inference.slide_predictor import SlidePredictor
from medvit.stage import Run, StageConfig, stage

log = logging.getLogger("medvit")


class EvaluateConfig(EvaluationOptions, StageConfig):
    """Options of `medvit evaluate`."""

    RESOLVED: ClassVar[tuple[str, ...]] = ("positive", "levels", "order", "device")


@stage
def evaluate(config: EvaluateConfig, run: Run) -> Report:
    """Evaluate a model on a split it was not trained on, and write a report with confidence intervals."""
    manifest = run.dataset(config.dataset)
    checkpoint = run.checkpoint(config.checkpoint).require("classification", "segmentation", "slide")
    predictor = (SlidePredictor if checkpoint.kind == "slide" else Predictor)(checkpoint, config.device)
    measured, notes = with_known_truth(manifest.split(config.split), predictor.config, predictor.kind)
    if config.split == "test":
        measured, excluded = without_training_patients(measured, config.checkpoint, config.seen_patients)
        notes += excluded
    other = None if config.against is None else read_other(config.against, surface_tolerance(config, measured))

    config, unnamed = config.resolved(predictor.config, measured)
    run.in_force(positive=config.positive, levels=config.levels, order=config.order, device=predictor.device.type)
    doubts = caveats(manifest, measured, predictor.config, config.split)
    for doubt in (*unnamed, *doubts):
        log.warning("%s", doubt)
    notes += [*unnamed, *shared_patients(manifest, config.split), *doubts]
    evaluation = Measurement(measured, config, config.seed, notes, run.failures).of(predictor)
    drawing = {"resamples": config.resamples, "seed": config.seed}
    differences = {} if other is None else compare(evaluation, other, **drawing)

    subject = report_subject(config, manifest, measured, evaluation, model_hash=checkpoint.hash, seed=config.seed)
    shown = examples(measured, predictor, evaluation, config)
    write_report(run.folder, subject, evaluation, examples=shown, differences=differences)
    print("\n".join(tables(measured, config.split, evaluation, differences)))
    run.tracker.metrics(tracked(evaluation.metrics, config.split, config.positive))
    run.keep(METRICS, HTML)
    values = {name: estimate.value for name, estimate in evaluation.metrics.items()}
    return Report(run.folder, values, summary_lines(config.split, evaluation, differences))
