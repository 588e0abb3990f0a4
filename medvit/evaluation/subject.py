"""Subject of a report: the model, the images, and another report for comparison."""

from __future__ import annotations

from pathlib import Path

from medvit.artifacts import Lineage
from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.evaluation import Evaluation
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.paired import MetricTable
from medvit.evaluation.report import ReportSubject, read_facts, read_table
from medvit.evaluation.segmentation import unit_of
from medvit.patients import PatientCount

TOLERANCE = "Surface tolerance"
"""Name of the report's entry for the tolerance of normalized surface Dice."""


def report_subject(
    options: EvaluationOptions,
    manifest: Manifest,
    measured: Manifest,
    evaluation: Evaluation,
    *,
    model_hash: str,
    seed: int,
) -> ReportSubject:
    """Return facts about model, data and options, with a warning if the model was trained or selected on the images."""
    lineage = Lineage.read(options.checkpoint)
    is_same = lineage is not None and lineage.inputs.get("dataset") == manifest.hash
    facts = {
        "Model": model_hash[:16],
        "Dataset": f"{manifest.facts.name}, {manifest.hash[:16]}",
        "Trained on": "the train split of the same dataset" if is_same else "another dataset",
        "Split": f"{options.split}: {len(measured)} {measured.rows[0].kind}s of {PatientCount.of(measured)}",
        "Intervals": f"{options.resamples} resamples of patients, seed {seed}",
    }
    if evaluation.positive:
        facts["Positive class"] = evaluation.positive
    if evaluation.kind == "segmentation":
        facts[TOLERANCE] = surface_tolerance(options, measured)
    if options.against is not None:
        other = read_facts(options.against).get("Model", "unknown")
        facts["Compared with"] = f"model {other}, on the images of both"
    title = f"Evaluation of a {evaluation.kind} on {manifest.facts.name}"
    return ReportSubject(title, facts, _warning(options, is_same=is_same))


def _warning(options: EvaluationOptions, *, is_same: bool) -> str:
    if is_same and options.split != "test":
        use = "was trained on" if options.split == "train" else "was selected by"
        return f"These are images of the {options.split} split: the model {use} them, so the metrics are too good."
    if options.split == "train":
        return "These are images of a train split: if the model was trained on any of them, the metrics are too good."
    return ""


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
