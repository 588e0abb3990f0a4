"""Evaluation of a fine-tuned model on one split of a dataset."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import ClassVar

from medvit.artifacts import METRICS, Report
from medvit.dataset.manifest import Manifest
from medvit.evaluation.judged import Judged, judge_checkpoint, judge_predictions
from medvit.evaluation.multitask import compare_labels
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.paired import compare
from medvit.evaluation.report.examples import examples
from medvit.evaluation.report.page import HTML, write_report
from medvit.evaluation.report.parts import Reported, parts_of
from medvit.evaluation.report.subject import read_other, report_subject, surface_tolerance
from medvit.evaluation.report.summary import summary_lines, tables, tracked
from medvit.evaluation.run import Measurement
from medvit.evaluation.subgroups.analysis import with_subgroups
from medvit.evaluation.subgroups.grouping import choose, predicted_labels
from medvit.evaluation.subgroups.restriction import restricted
from medvit.inference.out_of_fold import StoredPredictions
from medvit.stage import Run, StageConfig, stage

log = logging.getLogger("medvit")


class EvaluateConfig(EvaluationOptions, StageConfig):
    """Options of `medvit evaluate`."""

    RESOLVED: ClassVar[tuple[str, ...]] = ("positive", "levels", "order", "horizons", "subgroups", "device")


@stage
def evaluate(config: EvaluateConfig, run: Run) -> Report:
    """Evaluate a model on a split it was not trained on, and write a report with confidence intervals."""
    config.require_one_subject()
    manifest = run.dataset(config.dataset)
    judged = _judged(config, run, manifest)
    predicted = predicted_labels(judged.predictor.config)
    measured, restriction = restricted(judged.measured, config.where, predicted)
    judged = replace(judged, measured=measured, notes=(*judged.notes, *restriction))
    predictor, measured = judged.predictor, judged.measured
    other = None if config.against is None else read_other(config.against, surface_tolerance(config, measured))

    config, unnamed = config.resolved(predictor.config, measured)
    chosen = choose(measured.rows, config.subgroups, predicted)
    run.in_force(
        positive=config.positive,
        levels=config.levels,
        order=config.order,
        horizons=config.horizons,
        subgroups=chosen,
        device=predictor.device.type,
    )
    for doubt in (*unnamed, *judged.doubts):
        log.warning("%s", doubt)
    notes = [*judged.notes, *unnamed, *judged.doubts]
    evaluation = Measurement(measured, config, config.seed, notes, run.failures).of(predictor)
    drawing = {"resamples": config.resamples, "seed": config.seed}
    evaluation = with_subgroups(evaluation, chosen, **drawing)
    against = compare_labels if evaluation.parts else compare
    differences = {} if other is None else against(evaluation, other, **drawing)

    subject = report_subject(config, manifest, judged, evaluation, seed=config.seed)
    shown = examples(measured, predictor, evaluation, config)
    parts = parts_of(Reported(config, manifest, judged, evaluation, config.seed))
    write_report(run.folder, subject, evaluation, examples=shown, differences=differences, parts=parts)
    print("\n".join(tables(measured, judged.split, evaluation, differences)))
    run.tracker.metrics(tracked(evaluation.metrics, judged.split, config.positive))
    run.keep(METRICS, HTML)
    values = {name: estimate.value for name, estimate in evaluation.metrics.items()}
    return Report(run.folder, values, summary_lines(judged.split, evaluation, differences))


def _judged(config: EvaluateConfig, run: Run, manifest: Manifest) -> Judged:
    if config.predictions is not None:
        predictions = StoredPredictions.read(config.predictions)
        run.require_same("predictions", predictions.hash)
        return judge_predictions(predictions, manifest)
    assert config.checkpoint is not None, "one of both is given"
    return judge_checkpoint(run.checkpoint(config.checkpoint), manifest, config)
