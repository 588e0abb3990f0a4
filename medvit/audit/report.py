"""Report of an audit: a text for the terminal, saved as `summary.txt`, and `findings.csv` for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medvit.audit.matcher import Trace
from medvit.audit.needles import Needles
from medvit.audit.places import AnyPlace
from medvit.files.atomic import write_text
from medvit.files.spreadsheets import csv_text
from medvit.summary import Summary, counted

FINDINGS, SUMMARY = "findings.csv", "summary.txt"
COLUMNS = ("kind", "place", "what")
SHOWN = 200
"""Maximum number of findings in the terminal and in `summary.txt`; `findings.csv` lists all."""


@dataclass(frozen=True)
class Audited:
    """Findings of an audit (`findings.csv`, `summary.txt`), without any value of a patient."""

    folder: Path
    traces: tuple[Trace, ...]
    unread: tuple[str, ...] = ()
    """A line for each reason why files of the source could not be read."""

    def summary(self) -> Summary:
        """Return the numbers of findings and of places that could not be searched."""
        unsearched = sum(trace.is_unsearched for trace in self.traces) + len(self.unread)
        lines = [("found", counted(len(self.traces), "place")), ("unsearched", str(unsearched))]
        return Summary(lines, {FINDINGS: "findings", "summary.txt": "summary"})

    def write(self, summary: str) -> None:
        """Write the findings and the text `summary` as files into the folder of the audit."""
        found = [("unsearched" if one.is_unsearched else "found", one.place, one.source) for one in self.traces]
        lines = [*found, *(("unread", "the source", line) for line in self.unread)]
        write_text(self.folder / FINDINGS, csv_text(COLUMNS, lines))
        write_text(self.folder / SUMMARY, f"{summary}\n")


def unread_lines(needles: Needles) -> tuple[str, ...]:
    """Return one line per reason why files of the source could not be read."""
    return tuple(f"{number} files of the source: {reason}" for reason, number in sorted(needles.unread.items()))


def summary_of(needles: Needles, places: Sequence[AnyPlace], audited: Audited) -> str:
    """Return the summary text of an audit: numbers of needles, the places that were searched, and the findings."""
    titles = ", ".join(dict.fromkeys(place.title for place in places))
    lines = [
        f"searched for {len(needles.by_text)} texts that identify someone, from {needles.num_files} files, in {titles}",
        f"not searched for: {needles.num_excluded} values that are too short or too common to identify anyone",
        *(f"not read, so its contents were not searched for: {line}" for line in audited.unread),
        f"found: {len(audited.traces) or 'nothing'}",
    ]
    rest = [f"  and {len(audited.traces) - SHOWN} more"] if len(audited.traces) > SHOWN else []
    return "\n".join([*lines, *(f"  {trace}" for trace in audited.traces[:SHOWN]), *rest])
