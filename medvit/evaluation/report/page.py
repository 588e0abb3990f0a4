"""Self-contained HTML report: metrics with intervals, curves, and the parts of other modules."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from medvit.artifacts import METRICS
from medvit.document import Bullets, Document, Picture, Section, Table
from medvit.errors import DataError
from medvit.evaluation import Breakdown, Evaluation, MetricRow
from medvit.evaluation.checklists.answers import TeamAnswers
from medvit.evaluation.checklists.appendix import checklist_parts
from medvit.evaluation.checklists.recommended import recommended_parts
from medvit.evaluation.fact import Fact
from medvit.evaluation.paired import MetricTable
from medvit.evaluation.part import ReportPart, ReportPlace, in_order
from medvit.evaluation.report import plots
from medvit.evaluation.report.differences import difference_section
from medvit.evaluation.report.intervals import interval_notes
from medvit.files.atomic import write_text
from medvit.metrics import ClassMetric, Metric, SurvivalMetric, is_of_positive, metric_of, metric_title
from medvit.patients import PatientCount
from medvit.statistics import Estimate
from medvit.statistics.differences import Difference
from medvit.survival import time_text

HTML, PDF, TABLE = "report.html", "report.pdf", "predictions.parquet"

FEW_PATIENTS = 20
"""Number of patients below which intervals may be too narrow if a few patients have extreme values (measured for Dice
with 10 % missed structures: 84 to 90 % of the intervals contain the true mean).
"""

VALUE = "value [95 % interval]"
"""Title of a column with metrics."""

MAX_COLUMNS = 4
"""Number of metrics of classes in one table, so that it fits on the page."""

DPI = 192
"""Pixels per inch of the pictures: two per pixel of the page, so that they are sharp on high-resolution screens."""


@dataclass(frozen=True)
class ReportSubject:
    """Subject of the report: its title, facts by name, and a warning if needed."""

    title: str
    facts: Mapping[str, str]
    warning: str = ""


def write_report(
    folder: Path,
    subject: ReportSubject,
    evaluation: Evaluation,
    *,
    differences: Mapping[str, Difference] | None = None,
    parts: Sequence[ReportPart] = (),
    answers: TeamAnswers | None = None,
    pdf: bool = False,
) -> None:
    """Write `metrics.json`, `predictions.parquet`, `report.html` and optionally `report.pdf` into a folder.

    `parts` are contributed by other modules of the evaluation (`medvit.evaluation.report.parts`). With `answers` of the
    team, even if they are empty, the report ends with the reporting checklists.
    """
    everything = _all_parts(subject, evaluation, differences or {}, parts)
    if answers is not None:
        names = [part.name for part in everything if part.name]
        everything += [*recommended_parts(evaluation, names), *checklist_parts(everything, answers)]
    positive = evaluation.positive
    metrics = {"kind": evaluation.kind, "metrics": _plain(evaluation.metrics, positive)}
    metrics |= {"counts": {"images": len(evaluation.rows), **_counts(PatientCount.of(evaluation.rows))}}
    metrics |= {"definitions": {metric.name: _definition(metric) for metric in _measured(evaluation.metrics)}}
    metrics |= {"facts": dict(subject.facts), "notes": list(evaluation.notes), "classes": list(evaluation.classes)}
    if positive:
        metrics["positive"] = positive
    if differences:
        metrics["differences"] = _plain(differences, positive)
    if evaluation.breakdowns:
        found = evaluation.breakdowns
        metrics["breakdowns"] = {one.title: [_line(line, positive) for line in one.lines] for one in found}
    contributed = {part.name: dict(part.numbers) for part in everything if part.name}
    assert not contributed.keys() & metrics.keys(), f"names of parts are taken: {', '.join(contributed)}"
    metrics |= contributed
    write_text(folder / METRICS, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    pq.write_table(pa.table(dict(evaluation.table)), folder / TABLE)
    document = _document(subject, everything)
    document.write_html(folder / HTML)
    if pdf:
        document.write_pdf(folder / PDF)


def read_table(folder: Path) -> MetricTable:
    """Return the columns of the `predictions.parquet` of a report.

    Raises:
        DataError: If the folder does not contain a report.
    """
    path = folder / TABLE
    if not path.is_file():
        raise DataError(f"{folder} is not a report: no {TABLE} in it; give the output of evaluate")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):
        raise DataError(f"{path} is damaged and cannot be read; run evaluate again") from None
    return {name: table[name].to_numpy() for name in table.column_names}


def read_facts(folder: Path) -> Mapping[str, str]:
    """Return the facts about the subject of a report, keyed by name; empty if the folder contains no report."""
    path = folder / METRICS
    return json.loads(path.read_text(encoding="utf-8"))["facts"] if path.is_file() else {}


def page(
    subject: ReportSubject,
    evaluation: Evaluation,
    differences: Mapping[str, Difference],
    parts: Sequence[ReportPart] = (),
) -> Document:
    """Return the report as a document of one page; `differences` are those from another report."""
    return _document(subject, _all_parts(subject, evaluation, differences, parts))


def _document(subject: ReportSubject, parts: Sequence[ReportPart]) -> Document:
    sections = [part.section for part in in_order(parts)]
    return Document(subject.title, subject.warning, sections, "warning", has_contents=True)


def _all_parts(
    subject: ReportSubject,
    evaluation: Evaluation,
    differences: Mapping[str, Difference],
    parts: Sequence[ReportPart],
) -> list[ReportPart]:
    """Return the parts with metrics, curves, facts and notes, and the given ones."""
    warnings = [*evaluation.notes, *(note for part in parts for note in part.notes)]
    limits = Section("Notes", [Bullets([*warnings, *_meanings(evaluation)])])
    stated = {
        Fact.WARNINGS: bool(warnings),
        Fact.METRICS: bool(_measured(evaluation.metrics)),
        Fact.INTERVALS: bool(interval_notes(evaluation.metrics)),
    }
    facts = Section("Facts", [Table(["", ""], list(subject.facts.items()), is_text=True)])
    return [
        *_own_parts(evaluation, differences),
        *([ReportPart(ReportPlace.LINEAGE, facts)] if subject.facts else []),
        *parts,
        ReportPart(ReportPlace.LIMITS, limits, facts=_true(stated)),
    ]


def _true(stated: Mapping[Fact, bool]) -> frozenset[Fact]:
    return frozenset(fact for fact, is_stated in stated.items() if is_stated)


def _own_parts(evaluation: Evaluation, differences: Mapping[str, Difference]) -> list[ReportPart]:
    """Return the parts with metrics, differences, breakdowns and curves."""
    parts = evaluation.parts or {"": evaluation}
    results = [
        ReportPart(
            ReportPlace.RESULTS,
            _metric_tables(_of(label, "Results"), one.metrics, VALUE, one.positive),
            facts=_facts_of_metrics(one.metrics),
        )
        for label, one in parts.items()
    ]
    if differences:
        section = difference_section(differences, evaluation.positive)
        results.append(ReportPart(ReportPlace.RESULTS, section, facts=frozenset({Fact.DIFFERENCES})))
    breakdowns = [
        _breakdown(replace(one, title=_of(label, one.title)), part.positive)
        for label, part in parts.items()
        for one in part.breakdowns
    ]
    results += [ReportPart(ReportPlace.RESULTS, section) for section in breakdowns]
    curves = [
        ReportPart(ReportPlace.CURVES, _figures(_of(label, "Curves"), _pictures(one)), facts=_facts_of_curves(one.kind))
        for label, one in parts.items()
    ]
    return [*results, *curves]


def _facts_of_metrics(metrics: Mapping[str, Estimate]) -> frozenset[Fact]:
    """Return the facts that tables of metrics state: estimates with intervals, and rates of calls with intervals."""
    known = {name.partition(".")[0] for name, one in metrics.items() if math.isfinite(one.low)}
    return _true({Fact.ESTIMATES: bool(known), Fact.RATES: {"sensitivity", "specificity"} <= known})


def _facts_of_curves(kind: str) -> frozenset[Fact]:
    has_classes = kind in ("classification", "ordinal")
    return _true({Fact.PLOTS: True, Fact.CONFUSION: has_classes, Fact.CALIBRATION: has_classes or kind == "survival"})


def _of(label: str, title: str) -> str:
    """Return the title of a section, which names the label if the model predicts several labels."""
    return f"{label}: {title}" if label else title


def _pictures(evaluation: Evaluation) -> list[tuple[str, Figure]]:
    if evaluation.kind == "segmentation":
        pictures = [("Dice of each image", plots.dice_figure(evaluation))]
        if any(name.startswith("volume_ml.") for name in evaluation.columns):
            pictures.append(("Volumes: mean difference and 95 % limits of agreement", plots.volume_figure(evaluation)))
        return pictures
    if evaluation.kind == "regression":
        return [
            ("Predicted against true value", plots.scatter_figure(evaluation)),
            ("Mean difference and 95 % limits of agreement", plots.agreement_figure(evaluation)),
        ]
    if evaluation.kind == "survival":
        calibration = [
            (f"Survival at {time_text(time)}", plots.calibration_figure(evaluation, time))
            for time in evaluation.horizons
        ]
        return [("Survival by predicted risk", plots.risk_group_figure(evaluation)), *calibration]
    curves = [
        ("ROC", plots.roc_figure(evaluation)),
        ("Precision and recall", plots.precision_recall_figure(evaluation)),
    ]
    if evaluation.kind == "multilabel":
        return curves
    return [
        *curves,
        ("Reliability: accuracy with 95 % intervals over patients", plots.reliability_figure(evaluation)),
        ("Confusion matrix: counts, shaded by share of the true class", plots.confusion_figure(evaluation)),
    ]


def _plain(metrics: Mapping[str, Estimate], positive: str) -> dict[str, dict[str, float | str | None]]:
    """Return metrics in the form in which they are written as JSON.

    Undefined values are null. `method` is the method of the interval, one of `medvit.statistics.METHODS`. Metrics that
    refer to the positive class state this class.
    """
    return {
        name: estimate.plain | ({"positive": positive} if positive and is_of_positive(name) else {})
        for name, estimate in metrics.items()
    }


def _definition(metric: Metric) -> dict[str, str | bool | None]:
    description = {"title": metric.title, "meaning": metric.meaning, "unit": metric.unit}
    return description | {"higher_is_better": metric.higher_is_better, "is_per_image": metric.is_per_image}


def _meanings(evaluation: Evaluation) -> list[str]:
    """Return the notes on the metrics of this report."""
    patients = PatientCount.of(evaluation.rows)
    few = f"Only {patients}: intervals may be too narrow, above all if a few patients have extreme values."
    return [
        *([few] if patients.total < FEW_PATIENTS else []),
        *(metric.meaning for metric in _measured(evaluation.metrics)),
        *interval_notes(evaluation.metrics),
    ]


def _measured(keys: Iterable[str]) -> list[Metric]:
    """Return the distinct metrics that the keys belong to, in the order of the keys."""
    return [metric for metric in dict.fromkeys(map(metric_of, keys)) if metric is not None]


def _metric_tables(title: str, metrics: Mapping[str, Estimate], head: str, positive: str) -> Section:
    """Return a section with two tables: metrics over all classes, and metrics of each class."""
    overall = {name: estimate for name, estimate in metrics.items() if "." not in name}
    lines = [[metric_title(name, positive), str(estimate)] for name, estimate in overall.items()]
    tables = [Table(["metric", head], lines)] if overall else []
    keys = [name.partition(".")[::2] for name in metrics if "." in name]
    columns, parts = list(dict.fromkeys(key for key, _ in keys)), list(dict.fromkeys(part for _, part in keys))
    if parts:
        of_times = all(isinstance(metric_of(key), SurvivalMetric) for key in columns)
        for start in range(0, len(columns), MAX_COLUMNS):
            shown = columns[start : start + MAX_COLUMNS]
            cells = [[part, *(str(metrics.get(f"{key}.{part}", "")) for key in shown)] for part in parts]
            tables.append(Table(["time" if of_times else "class", *map(metric_title, shown)], cells))
    return Section(title, tables)


def _line(line: MetricRow, positive: str) -> dict[str, object]:
    counts = {"items": line.num_items, **_counts(line.patients)}
    return {"name": line.name, **counts, "metrics": _plain(line.metrics, positive)}


def _counts(patients: PatientCount) -> dict[str, int]:
    return {"patients": patients.total, "assumed_patients": patients.assumed}


def _breakdown(breakdown: Breakdown, positive: str) -> Section:
    """Return a section with a table: one line per subset, with the metrics that are shown in breakdowns."""
    known = {name: None for line in breakdown.lines for name in line.metrics if _is_in_breakdowns(name)}
    lines = [
        [line.name, line.num_items, line.patients.cell, *(str(line.metrics[name]) for name in known)]
        for line in breakdown.lines
    ]
    table = Table(["", "number", "patients", *(metric_title(name, positive) for name in known)], lines)
    return Section(breakdown.title, [breakdown.note, table])


def _is_in_breakdowns(key: str) -> bool:
    metric = metric_of(key)
    return "." not in key and isinstance(metric, ClassMetric) and metric.in_breakdowns


def _figures(title: str, pictures: Sequence[tuple[str, Figure]]) -> Section:
    return Section(title, [[Picture.of("", caption, _sharp(figure)) for caption, figure in pictures]])


def _sharp(figure: Figure) -> Figure:
    figure.set_dpi(DPI)
    return figure
