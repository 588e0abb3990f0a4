"""Subject of a report: the model, the images, and another report for comparison."""

from __future__ import annotations

from pathlib import Path

from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.evaluation import Evaluation
from medvit.evaluation.judged import Judged
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.paired import MetricTable
from medvit.evaluation.report.page import ReportSubject, read_facts, read_table
from medvit.evaluation.tasks.segmentation import unit_of
from medvit.patients import PatientCount
from medvit.tasks import NOUNS

TOLERANCE = "Surface tolerance"
"""Name of the report's entry for the tolerance of normalized surface Dice."""


def report_subject(
    options: EvaluationOptions, manifest: Manifest, judged: Judged, evaluation: Evaluation, *, seed: int
) -> ReportSubject:
    """Return facts about model, data and options, with a warning if the model was trained or selected on the images."""
    measured = judged.measured
    facts = {
        "Model": judged.model_hash[:16],
        "Dataset": f"{manifest.facts.name}, {manifest.hash[:16]}",
        "Trained on": judged.trained_on,
        "Split": f"{judged.split}: {len(measured)} {measured.rows[0].kind}s of {PatientCount.of(measured)}",
        "Intervals": f"{options.resamples} resamples of patients, seed {seed}",
    }
    if options.where:
        facts["Restricted to"] = "; ".join(f"{key}: {' or '.join(values)}" for key, values in options.where.items())
    if evaluation.positive:
        facts["Positive class"] = evaluation.positive
    positives = [f"{part.positive} ({label})" for label, part in evaluation.parts.items() if part.positive]
    if positives:
        facts["Positive classes"] = ", ".join(positives)
    if evaluation.kind == "segmentation":
        facts[TOLERANCE] = surface_tolerance(options, measured)
    if options.against is not None:
        other = read_facts(options.against).get("Model", "unknown")
        facts["Compared with"] = f"model {other}, on the images of both"
    title = f"Evaluation of {NOUNS[evaluation.kind]} on {manifest.facts.name}"
    return ReportSubject(title, facts, judged.warning)


def surface_tolerance(options: EvaluationOptions, manifest: Manifest) -> str:
    """Return the tolerance of normalized surface Dice with its unit, such as `1 mm`, as reports state it."""
    return f"{options.nsd_tolerance_mm:g} {unit_of(manifest)}"


def read_other(folder: Path, tolerance: str) -> MetricTable:
    """Return the table of predictions of another report, with which this evaluation is compared.

    Raises:
        DataError: If the folder does not contain a report, or the report used a surface tolerance other than
            `tolerance`.
    """
    table, theirs = read_table(folder), read_facts(folder).get(TOLERANCE, tolerance)
    if theirs != tolerance:
        raise DataError(
            f"{folder}: surface Dice was measured with a tolerance of {theirs}, here with {tolerance}; evaluate both "
            "with the same tolerance"
        )
    return table
