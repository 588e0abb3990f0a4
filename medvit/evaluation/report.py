"""One HTML file that stands alone: numbers with intervals, curves, and the best, the median and the worst case."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from medvit.artifacts import METRICS
from medvit.document import Bullets, Document, Picture, Section, Table
from medvit.errors import DataError
from medvit.evaluation import Breakdown, Estimate, Evaluation, MetricRow, plots
from medvit.evaluation.aggregation import PREFIX
from medvit.evaluation.paired import MetricTable
from medvit.evaluation.selection import is_of_positive
from medvit.files.atomic import write_text
from medvit.patients import PatientCount

HTML, TABLE = "report.html", "predictions.parquet"

NAMES = {
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1_macro": "F1, mean of classes",
    "brier": "Brier score",
    "ece": "Expected calibration error",
    "kappa_quadratic": "Quadratic kappa",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "dice": "Dice",
    "hd95_mm": "HD95, mm",
    "hd95_px": "HD95, pixels",
    "nsd": "Normalized surface Dice",
    "volume_bias_ml": "Found - true volume, mL",
}

MEANINGS = {
    "auroc": "AUROC: chance that a case scores above a control; of several classes, the mean of one against the rest.",
    "sensitivity": "Sensitivity, specificity, F1 and accuracy: of the most probable class; of two, the one above 0.5. "
    "Sensitivity is the share of the positive class that is found, specificity that of the other class.",
    "kappa_quadratic": "Quadratic kappa: agreement in grade beyond chance; an error costs the square of its size.",
    "ece": "Expected calibration error: how far probabilities are from frequencies on average; 0 is best.",
    "brier": "Brier score: squared distance of the probabilities from the truth; 0 is best, 2 worst.",
    "dice": "Dice: twice the overlap over the sum of both; of several classes, the mean of each image over them.",
    "hd95_mm": "HD95: the 95th percentile of the distances between the two surfaces; less is better.",
    "hd95_px": "HD95: the 95th percentile of the distances between the two outlines; less is better. In pixels, for "
    "these images do not say how large a pixel is.",
    "nsd": "Normalized surface Dice: the share of both surfaces that lies within the tolerance of the other.",
}
"""Metrics in a sentence, for those who do not meet them every day."""

INTERVALS = (
    "Intervals are 95 % bootstraps over patients, each drawn with all of its images; a resample that leaves a number "
    "undefined, as without a case of a class, does not count for it."
)
SHOWN_IN_PARTS = (
    "auroc",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "kappa_quadratic",
    "sensitivity",
    "specificity",
)
"""Metrics shown of levels and strata; `metrics.json` has all."""
FEW_PATIENTS = 20
"""Below this, percentile intervals are markedly too narrow (Hesterberg, The American Statistician 2015)."""

DPI = 192
"""Pixels an inch of the pictures: two for each of a page, so that they stay sharp on fine screens."""


@dataclass(frozen=True)
class Example:
    """A case worth looking at: what it stands for, and its picture."""

    caption: str
    figure: Figure


@dataclass(frozen=True)
class ReportSubject:
    """What was evaluated: lines of name and text, and a warning where one is due."""

    title: str
    facts: Mapping[str, str]
    warning: str = ""


def write_report(
    folder: Path,
    subject: ReportSubject,
    evaluation: Evaluation,
    *,
    examples: Sequence[Example] = (),
    differences: Mapping[str, Estimate] | None = None,
) -> None:
    """Writes `metrics.json`, `predictions.parquet` and `report.html` into a folder."""
    positive = evaluation.positive
    metrics = {"kind": evaluation.kind, "metrics": _plain(evaluation.metrics, positive)}
    metrics |= {"counts": {"images": len(evaluation.rows), **_counts(PatientCount.of(evaluation.rows))}}
    metrics |= {"facts": dict(subject.facts), "notes": list(evaluation.notes), "classes": list(evaluation.classes)}
    if positive:
        metrics["positive"] = positive
    if differences:
        metrics["differences"] = _plain(differences, positive)
    if evaluation.breakdowns:
        found = evaluation.breakdowns
        metrics["breakdowns"] = {one.title: [_line(line, positive) for line in one.lines] for one in found}
    write_text(folder / METRICS, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    rows = {
        "image_id": [row.image_id for row in evaluation.rows],
        "patient_id": [row.patient_id for row in evaluation.rows],
    }
    pq.write_table(pa.table(rows | dict(evaluation.columns)), folder / TABLE)
    page(subject, evaluation, examples, differences or {}).write_html(folder / HTML)


def read_table(folder: Path) -> MetricTable:
    """The columns of the `predictions.parquet` of a report.

    Raises:
        DataError: If the folder holds no report.
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
    """What a report was about; nothing where the folder holds none."""
    path = folder / METRICS
    return json.loads(path.read_text(encoding="utf-8"))["facts"] if path.is_file() else {}


def page(
    subject: ReportSubject, evaluation: Evaluation, examples: Sequence[Example], differences: Mapping[str, Estimate]
) -> Document:
    """The report as one page."""
    positive, title = evaluation.positive, "Difference from the other report"
    sections = [
        _metric_tables("Results", evaluation.metrics, "value [95 % interval]", positive),
        *([_metric_tables(title, differences, "this - other", positive)] if differences else []),
        *(_breakdown(one, positive) for one in evaluation.breakdowns),
        _figures("Curves", _pictures(evaluation)),
        *([_figures("Cases", [(e.caption, e.figure) for e in examples])] if examples else []),
        Section("What to know", [Bullets([*evaluation.notes, *_meanings(evaluation, differences)])]),
    ]
    return Document(subject.title, subject.warning, sections, "warning", subject.facts)


def metric_name(name: str, positive: str = "") -> str:
    """A metric in words: `dice.liver` is "Dice, liver", and with the positive class where it is of one of two."""
    metric, _, part = name.partition(".")
    own = metric.removeprefix(PREFIX)
    of_patients = ", of patients" if own != metric else ""
    of_class = f" (positive: {positive})" if positive and is_of_positive(name) else ""
    return NAMES.get(own, own) + of_patients + (f", {part}" if part else "") + of_class


def _pictures(evaluation: Evaluation) -> list[tuple[str, Figure]]:
    if evaluation.kind == "segmentation":
        pictures = [("Dice of every image", plots.dice_figure(evaluation))]
        if any(name.startswith("volume_ml.") for name in evaluation.columns):
            pictures.append(("Volumes: mean difference and 95 % limits of agreement", plots.volume_figure(evaluation)))
        return pictures
    return [
        ("ROC", plots.roc_figure(evaluation)),
        ("Precision and recall", plots.precision_recall_figure(evaluation)),
        ("Reliability", plots.reliability_figure(evaluation)),
        ("Confusion: counts, shaded by share of the true class", plots.confusion_figure(evaluation)),
    ]


def _plain(metrics: Mapping[str, Estimate], positive: str) -> dict[str, dict[str, float | str | None]]:
    """Numbers for JSON, which has no word for one that is not defined, with the class that they are of."""
    return {
        name: {key: value if math.isfinite(value) else None for key, value in asdict(estimate).items()}
        | ({"positive": positive} if positive and is_of_positive(name) else {})
        for name, estimate in metrics.items()
    }


def _meanings(evaluation: Evaluation, differences: Mapping[str, Estimate]) -> list[str]:
    """The sentences that the numbers of this report need."""
    patients = PatientCount.of(evaluation.rows)
    few = f"Only {patients}: the intervals are rougher than they look, and likely too narrow."
    return [
        *([few] if patients.total < FEW_PATIENTS else []),
        *(text for name, text in MEANINGS.items() if name in evaluation.metrics),
        INTERVALS,
        *(["A difference whose interval holds 0 has not been shown."] if differences else []),
    ]


def _metric_tables(title: str, metrics: Mapping[str, Estimate], head: str, positive: str) -> Section:
    """What holds for all classes as a list, and what holds for each as a line a class."""
    overall = {name: estimate for name, estimate in metrics.items() if "." not in name}
    lines = [[metric_name(name, positive), str(estimate)] for name, estimate in overall.items()]
    tables = [Table(["metric", head], lines)] if overall else []
    keys = [name.partition(".")[::2] for name in metrics if "." in name]
    columns, parts = list(dict.fromkeys(key for key, _ in keys)), list(dict.fromkeys(part for _, part in keys))
    if parts:
        cells = [[part, *(str(metrics.get(f"{key}.{part}", "")) for key in columns)] for part in parts]
        tables.append(Table(["class", *map(metric_name, columns)], cells))
    return Section(title, tables)


def _line(line: MetricRow, positive: str) -> dict[str, object]:
    counts = {"items": line.num_items, **_counts(line.patients)}
    return {"name": line.name, **counts, "metrics": _plain(line.metrics, positive)}


def _counts(patients: PatientCount) -> dict[str, int]:
    return {"patients": patients.total, "assumed_patients": patients.assumed}


def _breakdown(breakdown: Breakdown, positive: str) -> Section:
    """A line a part, with the metrics of `SHOWN_IN_PARTS`."""
    known = {name: None for line in breakdown.lines for name in line.metrics if name in SHOWN_IN_PARTS}
    lines = [
        [line.name, line.num_items, line.patients.cell, *(str(line.metrics[name]) for name in known)]
        for line in breakdown.lines
    ]
    table = Table(["", "number", "patients", *(metric_name(name, positive) for name in known)], lines)
    return Section(breakdown.title, [breakdown.note, table])


def _figures(title: str, pictures: Sequence[tuple[str, Figure]]) -> Section:
    return Section(title, [[Picture.of("", caption, _sharp(figure)) for caption, figure in pictures]])


def _sharp(figure: Figure) -> Figure:
    figure.set_dpi(DPI)
    return figure
