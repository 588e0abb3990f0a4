"""Parts of a report beyond its metrics, curves and cases: each module of the evaluation contributes its own."""

from __future__ import annotations

from dataclasses import dataclass

from medvit.artifacts import CONFIG
from medvit.dataset.manifest import Manifest
from medvit.document import Commands, Section
from medvit.evaluation import Evaluation
from medvit.evaluation.folds import fold_part
from medvit.evaluation.judged import Judged
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.report.cohort_section import cohort_part
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
    seed: int


def parts_of(reported: Reported) -> list[ReportPart]:
    """Return the parts that modules of the evaluation contribute to a report.

    A module that has nothing to report for this evaluation contributes an empty list.
    """
    predictor = reported.judged.predictor
    return [
        cohort_part(reported.manifest, reported.judged, reported.evaluation),
        *([fold_part(reported.evaluation, predictor)] if isinstance(predictor, StoredPredictions) else []),
        *subgroup_parts(reported.evaluation),
        repeat_part(reported.options),
    ]


def repeat_part(options: EvaluationOptions) -> ReportPart:
    """Return the commands that repeat an evaluation from the configuration in the folder of its report."""
    report = options.output.name
    command = f"medvit evaluate {report}/{CONFIG} output={report}-again"
    text = "With the same version of medvit, the same model and the same dataset, the numbers are identical."
    return ReportPart(ReportPlace.REPEAT, Section("Repeat this evaluation", [text, Commands([command])]))
