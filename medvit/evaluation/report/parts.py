"""Parts of a report beyond its metrics and curves: each module of the evaluation contributes its own."""

from __future__ import annotations

from dataclasses import dataclass

from medvit.artifacts import CONFIG
from medvit.dataset.manifest import Manifest
from medvit.document import Commands, Section
from medvit.evaluation import Evaluation
from medvit.evaluation.checklists.dataset_section import dataset_part, flow_part
from medvit.evaluation.checklists.model_section import model_part
from medvit.evaluation.criteria import CriteriaVerdict
from medvit.evaluation.fact import Fact
from medvit.evaluation.folds import fold_part
from medvit.evaluation.judged import Judged
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.report.answer import answer_part
from medvit.evaluation.report.cases import cases_part
from medvit.evaluation.report.cohort_section import cohort_part
from medvit.evaluation.report.lineage import lineage_parts
from medvit.evaluation.report.subgroup_section import subgroup_parts
from medvit.inference.out_of_fold import StoredPredictions


@dataclass(frozen=True)
class Reported:
    """Evaluation that a report describes: resolved options, dataset, images with their predictor, and result."""

    options: EvaluationOptions
    manifest: Manifest
    """All images of the dataset, in every split."""
    judged: Judged
    """Images that were evaluated, and the model or the stored predictions."""
    evaluation: Evaluation
    verdict: CriteriaVerdict
    seed: int


def parts_of(reported: Reported) -> list[ReportPart]:
    """Return the parts that modules of the evaluation contribute to a report.

    A module that has nothing to report for this evaluation contributes an empty list.
    """
    options, judged, evaluation = reported.options, reported.judged, reported.evaluation
    model = options.checkpoint or options.predictions
    assert model is not None, "one of both is given"
    named = {"dataset": reported.manifest.facts.name, "model": model.name, "split": judged.split.replace("_", " ")}
    predictor = judged.predictor
    return [
        answer_part(evaluation, reported.verdict, **named),
        cohort_part(reported.manifest, judged, evaluation),
        flow_part(reported.manifest, judged, evaluation),
        *([fold_part(evaluation, predictor)] if isinstance(predictor, StoredPredictions) else []),
        *subgroup_parts(evaluation),
        *lineage_parts(options, reported.manifest, judged),
        model_part(options, judged),
        dataset_part(reported.manifest),
        *cases_part(judged.measured, predictor, evaluation, options),
        repeat_part(options),
    ]


def repeat_part(options: EvaluationOptions) -> ReportPart:
    """Return the commands that repeat an evaluation from the configuration in the folder of its report."""
    report = options.output.name
    command = f"medvit evaluate {report}/{CONFIG} output={report}-again"
    text = "With the same version of medvit, the same model and the same dataset, the numbers are identical."
    section = Section("Repeat this evaluation", [text, Commands([command])])
    return ReportPart(ReportPlace.REPEAT, section, facts=frozenset({Fact.COMMAND}))
