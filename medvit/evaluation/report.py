"""One HTML file that stands alone: numbers with intervals, curves, and the best, the median and the worst case."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from medvit.artifacts import write_text
from medvit.evaluation import Estimate, Evaluation, plots

METRICS, HTML, TABLE = "metrics.json", "report.html", "predictions.parquet"

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
    "nsd": "Normalized surface Dice",
}

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2a44; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: .2rem } h2 { margin-top: 2.4rem; border-bottom: 1px solid #d8dce6; padding-bottom: .3rem }
table { border-collapse: collapse }
td, th { text-align: left; padding: .3rem 1.4rem .3rem 0; border-bottom: 1px solid #eceff5 }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
.warning { background: #fff4e5; border-left: 4px solid #d95f02; padding: .6rem 1rem }
.figures { display: flex; flex-wrap: wrap; gap: 1.2rem } figure { margin: 0 }
figcaption { font-size: .9rem; color: #55607a }
img { max-width: 100%; height: auto } code { font-size: .9rem; overflow-wrap: anywhere } .wide { overflow-x: auto }
"""


@dataclass(frozen=True)
class Example:
    """A case worth looking at: what it stands for, and its picture."""

    caption: str
    figure: Figure


@dataclass(frozen=True)
class Subject:
    """What was evaluated: lines of name and text, and a warning where one is due."""

    title: str
    facts: Mapping[str, str]
    warning: str = ""


def write_report(
    folder: Path,
    subject: Subject,
    evaluation: Evaluation,
    *,
    examples: Sequence[Example] = (),
    differences: Mapping[str, Estimate] | None = None,
) -> None:
    """Writes `metrics.json`, `predictions.parquet` and `report.html` into a folder."""
    metrics = {"kind": evaluation.kind, "metrics": {name: asdict(e) for name, e in evaluation.metrics.items()}}
    metrics |= {"facts": dict(subject.facts), "notes": list(evaluation.notes), "classes": list(evaluation.classes)}
    if differences:
        metrics["differences"] = {name: asdict(estimate) for name, estimate in differences.items()}
    write_text(folder / METRICS, json.dumps(metrics, indent=2) + "\n")
    rows = {
        "image_id": [row.image_id for row in evaluation.rows],
        "patient_id": [row.patient_id for row in evaluation.rows],
    }
    pq.write_table(pa.table(rows | dict(evaluation.columns)), folder / TABLE)
    write_text(folder / HTML, html(subject, evaluation, examples, differences or {}))


def html(
    subject: Subject, evaluation: Evaluation, examples: Sequence[Example], differences: Mapping[str, Estimate]
) -> str:
    """The report as one page without any reference to the outside."""
    sections = [
        _metric_table("Results", evaluation.metrics, "value"),
        *([_metric_table("Difference from the other report", differences, "this - other")] if differences else []),
        _figures("Curves", _pictures(evaluation)),
        *([_figures("Cases", [(e.caption, e.figure) for e in examples])] if examples else []),
        _list("What to know", [*evaluation.notes, "Intervals are 95 % bootstraps over patients."]),
    ]
    warning = f'<p class="warning">{escape(subject.warning)}</p>' if subject.warning else ""
    facts = "".join(f"<tr><th>{escape(k)}</th><td><code>{escape(v)}</code></td></tr>" for k, v in subject.facts.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(subject.title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(subject.title)}</h1><p>For research. Not a medical device.</p>{warning}"
        f'<div class="wide"><table>{facts}</table></div>{"".join(sections)}</body></html>\n'
    )


def metric_name(name: str) -> str:
    """A metric in words: `dice.liver` is "Dice, liver"."""
    metric, _, part = name.partition(".")
    return NAMES.get(metric, metric) + (f", {part}" if part else "")


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


def _metric_table(title: str, metrics: Mapping[str, Estimate], head: str) -> str:
    lines = "".join(
        f'<tr><td>{escape(metric_name(name))}</td><td class="number">{escape(str(estimate))}</td></tr>'
        for name, estimate in metrics.items()
    )
    return f"<h2>{escape(title)}</h2><table><tr><th>metric</th><th>{head} [95 % interval]</th></tr>{lines}</table>"


def _figures(title: str, pictures: Sequence[tuple[str, Figure]]) -> str:
    body = "".join(
        f'<figure><img alt="{escape(caption)}" src="{_embedded(figure)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, figure in pictures
    )
    return f'<h2>{escape(title)}</h2><div class="figures">{body}</div>'


def _list(title: str, lines: Sequence[str]) -> str:
    return f"<h2>{escape(title)}</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _embedded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
