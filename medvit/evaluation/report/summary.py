"""Summary of an evaluation: lines and tables for the terminal, numbers for MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from medvit.dataset.manifest import Manifest
from medvit.evaluation import Evaluation
from medvit.evaluation.subgroups.findings import largest_gap
from medvit.metrics import is_of_positive, metric_title
from medvit.patients import PatientCount
from medvit.statistics import Estimate
from medvit.summary import counted

MAIN = (
    "dice",
    "dice_pooled",
    "nsd",
    "hd95_mm",
    "hd95_px",
    "lesion_f1",
    "false_lesions",
    "auroc",
    "auroc_macro",
    "auroc_micro",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "kappa_quadratic",
    "grade_error",
    "mae",
    "rmse",
    "r2",
    "c_index",
    "c_uno",
    "integrated_brier",
)
"""Metrics that a summary contains, over all classes together; for a multi-task model, the summary contains these
metrics for each label.
"""

SHOWN_GROUPS = 5
"""Maximum number of groups of an analysis of subgroups that are printed."""


def summary_lines(
    split: str, evaluation: Evaluation, differences: Mapping[str, Estimate] | None = None
) -> list[tuple[str, str]]:
    """Return the evaluated data, the main metrics with their intervals, and their differences from another report."""
    rows, positive = evaluation.rows, evaluation.positive
    of_labels = [f"{name}.{label}" for label in evaluation.parts for name in MAIN]
    main = [name for name in (*MAIN, *of_labels) if name in evaluation.metrics]
    return [
        ("split", f"{split}: {counted(len(rows), rows[0].kind)}, {PatientCount.of(rows)}"),
        *((metric_title(name, positive), str(evaluation.metrics[name])) for name in main),
        *(
            (f"{metric_title(n, positive)}, difference", str(differences[n]))
            for n in main
            if differences and n in differences
        ),
    ]


def tables(
    measured: Manifest, split: str, evaluation: Evaluation, differences: Mapping[str, Estimate]
) -> Iterator[str]:
    """Yield the lines for the terminal: all metrics, and all differences from another report if there are any."""
    parts = {f"{split} split, {len(measured)} {measured.rows[0].kind}s": evaluation.metrics}
    parts |= {"difference from the other report": differences} if differences else {}
    for title, estimates in parts.items():
        yield f"\n{title}: value [95 % interval]"
        for name, estimate in estimates.items():
            yield f"  {metric_title(name, evaluation.positive):44s} {estimate}"
    for label, part in (evaluation.parts or {"": evaluation}).items():
        yield from _subgroups(part, label)


def _subgroups(evaluation: Evaluation, label: str) -> Iterator[str]:
    """Yield the groups with the largest disadvantages, and a sentence on the largest one."""
    for analysis in evaluation.subgroups:
        title = f"{label}: {analysis.title}" if label else analysis.title
        yield f"\n{title}, by {metric_title(analysis.main)}: value [95 % interval], gap to the rest"
        for group in analysis.groups[:SHOWN_GROUPS]:
            mark = " *" * group.is_small
            yield f"  {f'{group}{mark}':44s} {group.metrics[analysis.main]}, gap {group.gaps[analysis.main]}"
        if len(analysis.groups) > SHOWN_GROUPS:
            yield f"  and {len(analysis.groups) - SHOWN_GROUPS} more groups in the report"
        yield f"  {largest_gap(analysis, evaluation.rows[0].kind)}"


def tracked(metrics: Mapping[str, Estimate], split: str, positive: str = "") -> dict[str, float]:
    """Return all defined numbers for MLflow, such as `test.dice`, `test.dice.lower` and `test.dice.upper`.

    If a metric refers to the positive class, its name ends with the class, as in `test.sensitivity.cancer`.
    """
    metrics = {f"{name}.{positive}" if positive and is_of_positive(name) else name: e for name, e in metrics.items()}
    return {key: value for name, e in metrics.items() for key, value in e.named(f"{split}.{name}").items()}
