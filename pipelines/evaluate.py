"""Evaluation of a fine-tuned model on one split of a dataset."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from medvit.artifacts import METRICS, Report
from medvit.baselines.beside import compare_with_baselines, part_of
from medvit.baselines.stored import BaselineFolder
from medvit.dataset.manifest import Manifest
from medvit.document import require_pdf
from medvit.evaluation import Evaluation
from medvit.evaluation.checklists.answers import FILE_NAME, TeamAnswers, template
from medvit.evaluation.checklists.appendix import items_by_key
from medvit.evaluation.criteria import judge_criteria, require_known
from medvit.evaluation.judged import Judged, judge_checkpoint, judge_predictions
from medvit.evaluation.multitask import compare_labels
from medvit.evaluation.operating.chosen import Operating, OperatingPlan
from medvit.evaluation.operating.validation import validation_outcomes
from medvit.evaluation.operating_options import require_classes
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.paired import compare
from medvit.evaluation.part import ReportPart
from medvit.evaluation.report.decision import operating_parts
from medvit.evaluation.report.neighbors import neighbors_part, require_images
from medvit.evaluation.report.operating import points_lines
from medvit.evaluation.report.page import HTML, PDF, write_report
from medvit.evaluation.report.parts import Reported, parts_of
from medvit.evaluation.report.subject import read_other, report_subject, surface_tolerance
from medvit.evaluation.report.summary import summary_lines, tables, tracked
from medvit.evaluation.report.uncertainty import judged_sets, uncertainty_parts
from medvit.evaluation.run import Measurement
from medvit.evaluation.subgroups.analysis import with_subgroups
from medvit.evaluation.subgroups.embedded import embedded
from medvit.evaluation.subgroups.grouping import choose, predicted_labels
from medvit.evaluation.subgroups.hidden_strata import are_possible, with_hidden_strata
from medvit.evaluation.subgroups.restriction import restricted
from medvit.evaluation.uncertainty.coverage import set_columns
from medvit.files.atomic import write_text
from medvit.inference.operating_points import OPERATING_POINTS, OperatingPoints
from medvit.inference.out_of_fold import StoredPredictions
from medvit.stage import Run, StageConfig, stage

log = logging.getLogger("medvit")

VERDICT_TAG = "medvit.verdict"
"""Tag of an MLflow run with the verdict of the evaluation: passed, failed or not judged."""


class EvaluateConfig(EvaluationOptions, StageConfig):
    """Options of `medvit evaluate`."""

    RESOLVED: ClassVar[tuple[str, ...]] = ("positive", "levels", "order", "horizons", "subgroups", "device")


@stage
def evaluate(config: EvaluateConfig, run: Run) -> Report:
    """Evaluate a model on a split it was not trained on, and write a report with confidence intervals."""
    config.require_one_subject()
    require_known(config.criteria)
    if config.pdf:
        require_pdf()
    answers = TeamAnswers()
    if config.answers is not None:
        answers = TeamAnswers.read(config.answers)
        run.require_same("answers", hashlib.sha256(config.answers.read_bytes()).hexdigest())
    manifest = run.dataset(config.dataset)
    judged = _judged(config, run, manifest)
    if config.reference is not None:
        require_images(judged.predictor.kind, config.checkpoint)
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
    conformal, doubts = judged_sets(judged)
    notes = [*judged.notes, *unnamed, *judged.doubts, *doubts]
    evaluation = Measurement(measured, config, config.seed, notes, run.failures).of(predictor)
    drawing = {"resamples": config.resamples, "seed": config.seed}
    evaluation = with_subgroups(evaluation, chosen, **drawing)
    if chosen and config.hidden_strata and are_possible(evaluation):
        checkpoint = None if config.checkpoint is None else run.checkpoint(config.checkpoint)
        embeddings = embedded(judged, evaluation, checkpoint, config)
        if embeddings is not None:
            evaluation = with_hidden_strata(evaluation, embeddings, chosen, **drawing)
    against = compare_labels if evaluation.parts else compare
    differences = {} if other is None else against(evaluation, other, **drawing)

    if conformal is not None:
        evaluation = replace(evaluation, columns={**evaluation.columns, **set_columns(evaluation, conformal)})
    beside = _beside(config, run, manifest, evaluation, drawing)
    operating = _operating(config, run, manifest, judged, evaluation)
    subject = report_subject(config, manifest, judged, evaluation, seed=config.seed)
    verdict = judge_criteria(config.criteria, evaluation)
    run.failures += verdict.unmet
    parts = [*parts_of(Reported(config, manifest, judged, evaluation, verdict, config.seed)), *beside]
    parts += [] if operating is None else operating_parts(operating, judged.split)
    parts += _neighbors(config, run, manifest, evaluation)
    parts += uncertainty_parts(evaluation, conformal, chosen, **drawing)
    write_report(run.folder, subject, evaluation, differences=differences, parts=parts, answers=answers, pdf=config.pdf)
    write_text(run.folder / FILE_NAME, template(answers, items_by_key()))
    print("\n".join(tables(measured, judged.split, evaluation, differences)))
    if operating is not None:
        print("\n".join(points_lines(operating)))
    run.tracker.metrics(tracked(evaluation.metrics, judged.split, config.positive))
    run.tracker.tags({VERDICT_TAG: verdict.name})
    run.keep(METRICS, HTML, PDF, OPERATING_POINTS)
    values = {name: estimate.value for name, estimate in evaluation.metrics.items()}
    lines = [*summary_lines(judged.split, evaluation, differences), ("verdict", verdict.name)]
    return Report(run.folder, values, lines)


def _beside(
    config: EvaluateConfig, run: Run, manifest: Manifest, evaluation: Evaluation, drawing: Mapping[str, int]
) -> list[ReportPart]:
    if config.baselines is None:
        return []
    folder = BaselineFolder.read(config.baselines)
    run.require_same("baselines", folder.hash)
    tolerance_mm = config.nsd_tolerance_mm
    found = compare_with_baselines(folder, manifest.hash, evaluation, tolerance_mm=tolerance_mm, **drawing)
    return [part_of(found, folder.task, evaluation.positive)]


def _neighbors(config: EvaluateConfig, run: Run, manifest: Manifest, evaluation: Evaluation) -> list[ReportPart]:
    if config.reference is None:
        return []
    assert config.checkpoint is not None, "a model of images is required"
    checkpoint = run.checkpoint(config.checkpoint)
    number, limit, device = config.neighbors, config.cases, config.device
    how: dict[str, Any] = {"number": number, "limit": limit, "device": device}
    return [neighbors_part(manifest, evaluation, checkpoint, run.embeddings(config.reference, "reference"), **how)]


def _judged(config: EvaluateConfig, run: Run, manifest: Manifest) -> Judged:
    if config.predictions is not None:
        predictions = StoredPredictions.read(config.predictions)
        run.require_same("predictions", predictions.hash)
        return judge_predictions(predictions, manifest)
    assert config.checkpoint is not None, "one of both is given"
    run.model_params(config.checkpoint)
    return judge_checkpoint(run.checkpoint(config.checkpoint), manifest, config)


def _operating(
    config: EvaluateConfig, run: Run, manifest: Manifest, judged: Judged, evaluation: Evaluation
) -> Operating | None:
    """Return the operating points with their rates, and write them for predict; None if none are requested."""
    options = config.operating
    if not options.is_used:
        return None
    require_classes(judged.predictor.config.kind)
    plan = OperatingPlan(options, config.order, config.resamples, config.seed)
    if options.report is not None:
        earlier = OperatingPoints.read(options.report).of_model(judged.model_hash, str(options.report))
        run.require_same("operating_points", earlier.hash)
        run.inputs["operating_points"] = earlier.hash
        operating = plan.given(earlier.points, evaluation)
    elif not options.goals:
        return plan.with_curves(Operating(options.level, ()), evaluation)
    else:
        validation, notes = validation_outcomes(judged, manifest, config, run.failures)
        operating = plan.chosen(validation, evaluation)
        operating = replace(operating, notes=(*operating.notes, *notes))
    run.failures += [f"operating point not chosen: {reason}" for reason in operating.refused]
    OperatingPoints(judged.model_hash, tuple(one.point for one in operating.points)).write(run.folder)
    return operating
