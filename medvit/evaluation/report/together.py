"""Several reports on one page: their metrics side by side, and differences from the first one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medvit.artifacts import METRICS
from medvit.document import Document, Section, Table
from medvit.errors import ConfigError, DataError
from medvit.evaluation.paired import MetricTable, paired_differences
from medvit.evaluation.positive import index_of
from medvit.evaluation.report.differences import difference_section
from medvit.evaluation.report.page import VALUE, read_table
from medvit.evaluation.report.subject import TOLERANCE
from medvit.files.atomic import write_text
from medvit.metrics import metric_title
from medvit.statistics import Estimate
from medvit.statistics.differences import Difference, corrected
from medvit.summary import Summary

HTML, JSON = "reports.html", "differences.json"
COMPARED = ("segmentation", "classification", "regression", "multilabel")
"""Kinds of evaluations that can be compared from their reports alone."""
ORDER = (
    "Differences are those of each report from the first one, on the images that both contain. They are computed as by "
    "`medvit evaluate against=...`; p-values are corrected within each pair of reports."
)


@dataclass(frozen=True)
class ReadReport:
    """Report that is compared with others: its metrics, facts and predictions."""

    name: str
    kind: str
    classes: tuple[str, ...]
    positive: str
    metrics: Mapping[str, Estimate]
    facts: Mapping[str, str]
    verdict: str
    table: MetricTable = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> ReadReport:
        """Return the report in a folder.

        Raises:
            DataError: If the folder is not a report, is damaged, or its kind cannot be compared.
        """
        table, path = read_table(folder), folder / METRICS
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            metrics = {key: _estimate(one) for key, one in tree["metrics"].items()}
            kind, classes, facts = tree["kind"], tuple(tree["classes"]), tree["facts"]
        except (OSError, json.JSONDecodeError, KeyError, TypeError):
            raise DataError(f"{path} is damaged and cannot be read; run evaluate again") from None
        if kind not in COMPARED:
            raise DataError(f"{folder} is a report of a {kind}; compare it with `medvit evaluate against=...`")
        verdict = tree.get("verdict", {}).get("name", "not judged")
        return cls(folder.name, kind, classes, tree.get("positive", ""), metrics, facts, verdict, table)


@dataclass(frozen=True)
class ReportComparison:
    """Reports, and the differences of each from the first, keyed by its name."""

    folder: Path
    reports: tuple[ReadReport, ...]
    differences: Mapping[str, Mapping[str, Difference]]

    def summary(self) -> Summary:
        """Return the names of the reports and the number of significant differences."""
        num = {name: sum(one.p_corrected < 0.05 for one in found.values()) for name, found in self.differences.items()}
        lines = [("first report", self.reports[0].name)]
        lines += [(name, f"{count} significant differences from the first") for name, count in num.items()]
        return Summary(lines, {HTML: "metrics and differences", JSON: "all differences"})

    def page(self) -> Document:
        """Return the page: verdicts, metrics side by side, and the differences of each report from the first."""
        first = self.reports[0]
        keys = dict.fromkeys(key for report in self.reports for key in report.metrics)
        lines = [
            [metric_title(key, first.positive), *(str(report.metrics.get(key, "")) for report in self.reports)]
            for key in keys
        ]
        names = [report.name for report in self.reports]
        facts = dict.fromkeys(key for report in self.reports for key in report.facts)
        about = [["Verdict", *(report.verdict for report in self.reports)]]
        about += [[key, *(report.facts.get(key, "") for report in self.reports)] for key in facts]
        sections = [
            Section("Reports", [Table(["", *names], about, is_text=True)]),
            Section(f"Results: {VALUE}", [Table(["metric", *names], lines)]),
        ]
        for name, found in self.differences.items():
            section = difference_section(found, first.positive)
            sections.append(replace(section, title=f"{name} - {first.name}"))
        return Document("Comparison of reports", ORDER, sections)

    def write(self) -> None:
        """Write `reports.html` and `differences.json` into the folder."""
        self.page().write_html(self.folder / HTML)
        tree = {name: {key: one.plain for key, one in found.items()} for name, found in self.differences.items()}
        write_text(self.folder / JSON, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def compare_reports(folders: Sequence[Path], output: Path, *, resamples: int, seed: int) -> ReportComparison:
    """Return the reports in several folders and their differences from the first.

    Raises:
        ConfigError: If there are fewer than two reports, or two folders have the same name.
        DataError: If a folder is not a report, or the reports cannot be compared.
    """
    if len(folders) < 2 or len({folder.name for folder in folders}) < len(folders):
        raise ConfigError("compare needs at least two report folders with different names: reports=[A,B]")
    first, *others = reports = [ReadReport.read(folder) for folder in folders]
    positive = index_of(first.positive, first.classes)
    differences = {}
    for other in others:
        for what in ("kind", "classes", "positive"):
            if getattr(other, what) != getattr(first, what):
                raise DataError(f"{other.name} and {first.name} differ in {what}; compare models of the same task")
        if other.facts.get(TOLERANCE) != first.facts.get(TOLERANCE):
            raise DataError(f"{other.name} and {first.name} have different surface tolerances; evaluate both with one")
        found = paired_differences(
            other.table, first.table, first.classes, resamples=resamples, seed=seed, positive=positive
        )
        differences[other.name] = corrected(found)
    return ReportComparison(output, tuple(reports), differences)


def _estimate(one: Mapping[str, float | str | None]) -> Estimate:
    value, low, high = (
        float("nan") if one[key] is None else float(one[key] or 0.0) for key in ("value", "low", "high")
    )
    return Estimate(value, low, high, str(one.get("method", "")))
