"""Section of a report on subgroups: findings in words, a forest plot of the gaps, and a table."""

from __future__ import annotations

import math
from dataclasses import replace

from matplotlib.figure import Figure

from medvit.attributes import SITE
from medvit.document import Block, Bullets, Picture, Section, Table
from medvit.evaluation import Evaluation
from medvit.evaluation.fact import Fact
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.report.plots import FOUND, INK
from medvit.evaluation.subgroups import Subgroup, SubgroupAnalysis
from medvit.evaluation.subgroups.findings import findings, is_worse
from medvit.metrics import is_lower_better, metric_title
from medvit.statistics import Estimate

SMALL = "#9aa3b5"
"""Color of small groups in a forest plot."""
LINE_INCHES = 0.3
DPI = 192


def subgroup_parts(evaluation: Evaluation) -> list[ReportPart]:
    """Return a part of the report for each analysis of subgroups; for a multi-task model, of each label."""
    each = [
        (label, one, part) for label, part in (evaluation.parts or {"": evaluation}).items() for one in part.subgroups
    ]
    sections = [_section(analysis, part, label) for label, analysis, part in each]
    numbers = {"analyses": [_plain_analysis(analysis, part, label) for label, analysis, part in each]}
    parts = [
        ReportPart(ReportPlace.SUBGROUPS, section, facts=_facts(analysis))
        for section, (_, analysis, _) in zip(sections, each, strict=True)
    ]
    return [replace(parts[0], name="subgroups", numbers=numbers), *parts[1:]] if parts else []


def _facts(analysis: SubgroupAnalysis) -> frozenset[Fact]:
    attributes = {group.attribute for group in analysis.groups}
    by_cluster = {Fact.CLUSTERS} if attributes & {SITE, "manufacturer", "model"} else set()
    return frozenset(by_cluster | ({Fact.SUBGROUPS} if attributes else set()))


def _section(analysis: SubgroupAnalysis, evaluation: Evaluation, label: str) -> Section:
    title = f"{label}: {analysis.title}" if label else analysis.title
    blocks: list[Block] = [analysis.note, Bullets(findings(analysis, evaluation.rows[0].kind))]
    if analysis.groups:
        figure = forest_figure(analysis)
        figure.set_dpi(DPI)
        caption = f"Gaps of {metric_title(analysis.main, evaluation.positive)}, largest disadvantage first"
        blocks += [[Picture.of("", caption, figure)], *_tables(analysis, evaluation)]
    return Section(title, blocks)


def _plain_analysis(analysis: SubgroupAnalysis, evaluation: Evaluation, label: str) -> dict[str, object]:
    """Return an analysis in the form in which it is written as JSON."""
    return ({"label": label} if label else {}) | {
        "title": analysis.title,
        "main_metric": analysis.main,
        "comparisons": len(analysis.compared),
        "findings": findings(analysis, evaluation.rows[0].kind),
        "alike": dict(analysis.alike),
        "groups": [_plain_group(group) for group in analysis.groups],
    }


def forest_figure(analysis: SubgroupAnalysis) -> Figure:
    """Plot the gap of each group with its interval, in the order of the analysis, with numbers at the side.

    Orange: the interval is on the side of a disadvantage. Gray and hollow: the group is small.
    """
    groups, main = analysis.groups, analysis.main
    figure = Figure(figsize=(9.6, LINE_INCHES * len(groups) + 1.1), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="#bbbbbb", linewidth=1)
    for place, group in enumerate(groups):
        gap = group.gaps[main]
        if math.isfinite(gap.value):
            color = SMALL if group.is_small else FOUND if _excludes_zero(main, gap) else INK
            face = "white" if group.is_small else color
            if math.isfinite(gap.low):
                axes.plot([gap.low, gap.high], [place, place], color=color, linewidth=1.4, zorder=2)
            axes.plot(gap.value, place, "o", color=color, markerfacecolor=face, markersize=6, zorder=3)
        else:
            axes.text(0, place, " not defined", va="center", fontsize=8, color=SMALL)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_yticks(
        range(len(groups)), [f"{group}{' *' * group.is_small} ({group.patients.total})" for group in groups]
    )
    axes.tick_params(labelsize=9)
    sides = axes.secondary_yaxis("right")
    sides.set_yticks(range(len(groups)), [str(group.metrics[main]) for group in groups], fontsize=9)
    sides.tick_params(length=0)
    worse_side = "right" if is_lower_better(main) else "left"
    axes.set_xlabel(f"gap of {metric_title(main)} to all other images; {worse_side} is worse", fontsize=9)
    axes.set_title("group (patients)", loc="left", fontsize=9)
    axes.set_title(metric_title(main), loc="right", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _excludes_zero(main: str, gap: Estimate) -> bool:
    return (gap.high < 0 or gap.low > 0) and is_worse(main, gap.value)


def _tables(analysis: SubgroupAnalysis, evaluation: Evaluation) -> list[Table]:
    """Return the numbers, the main metric and the gap of each group, and a second table with its other metrics.

    One table of all columns would be wider than the page.
    """
    main, positive = analysis.main, evaluation.positive
    others = [key for key in analysis.groups[0].metrics if key != main]
    has_positives = any(group.num_positives is not None for group in analysis.groups)
    head = [
        "group",
        f"{evaluation.rows[0].kind}s",
        "patients",
        *([_name_of_positives(evaluation)] if has_positives else []),
        metric_title(main, positive),
        "gap",
    ]
    names = [f"{group}{' *' * group.is_small}" for group in analysis.groups]
    lines = [
        [
            name,
            group.num_items,
            group.patients.cell,
            *([group.num_positives] if has_positives else []),
            str(group.metrics[main]),
            _signed(group.gaps[main]),
        ]
        for name, group in zip(names, analysis.groups, strict=True)
    ]
    if not others:
        return [Table(head, lines)]
    rest = [
        [name, *(str(group.metrics[key]) for key in others)] for name, group in zip(names, analysis.groups, strict=True)
    ]
    return [Table(head, lines), Table(["group", *(metric_title(key, positive) for key in others)], rest)]


def _name_of_positives(evaluation: Evaluation) -> str:
    names = {"survival": "events", "segmentation": "with a structure", "multilabel": "with a positive label"}
    return names.get(evaluation.kind, f"positive ({evaluation.positive})")


def _signed(gap: Estimate) -> str:
    if not math.isfinite(gap.value):
        return str(gap)
    if not math.isfinite(gap.low):
        return f"{gap.value:+.3f} [no interval]"
    return f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"


def _plain_group(group: Subgroup) -> dict[str, object]:
    return {
        "attribute": group.attribute,
        "name": group.name,
        "items": group.num_items,
        "patients": group.patients.total,
        "assumed_patients": group.patients.assumed,
        "positives": group.num_positives,
        "is_small": group.is_small,
        "doubts": list(group.doubts),
        "metrics": {key: estimate.plain for key, estimate in group.metrics.items()},
        "gaps": {key: estimate.plain for key, estimate in group.gaps.items()},
    }
