"""Outcomes of a batch: the tables `status.csv` and `predictions.csv`, and the counts and reasons of a summary."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvit.artifacts import STATUS
from medvit.errors import DataError
from medvit.files.atomic import write_text
from medvit.files.spreadsheets import csv_text
from medvit.writers import Finding, Status
from medvit.writers.optional import LACKS

PREDICTIONS = "predictions.csv"
STATUS_COLUMNS = ("study", "status", "code", "reason", "seconds", "outputs")
PREDICTION_COLUMNS = (
    "study",
    "series",
    "class",
    "probability",
    "volume_ml",
    "num_voxels",
    "value",
    "model",
    "operating_point",
    "threshold",
    "call",
    "in_set",
    "low",
    "high",
    "coverage",
    "entropy",
    "mutual_information",
    "spread",
)
"""Columns of `predictions.csv`: the study, and the fields of `Finding`, of which `label` is called class."""

NUM_DIGITS = 6
"""Number of significant digits of numbers in `predictions.csv`, unless a call needs more."""
EXACT_DIGITS = 17
"""Number of significant digits from which a number in double precision is read back exactly."""
SHOWN_REASONS = 8
"""Maximum number of reasons that a summary contains: the most frequent reasons."""

PlainFinding = list[str | float | int | None]
"""Finding as the values of its columns in `predictions.csv`."""


@dataclass(frozen=True)
class StudyOutcome:
    """StudyOutcome of one study: a line of `status.csv`, and its lines of `predictions.csv`."""

    study: str
    status: Status
    code: str = ""
    reason: str = ""
    seconds: str = ""
    outputs: str = ""
    findings: tuple[PlainFinding, ...] = field(default=(), repr=False)

    @property
    def lacks_output(self) -> bool:
        """Whether the study is done, but an output could not be written."""
        return self.status == "done" and LACKS in self.reason


@dataclass(frozen=True)
class BatchOutcomes:
    """BatchOutcomes of the studies of a batch, in the order of their names."""

    all: tuple[StudyOutcome, ...]

    def write(self, folder: Path) -> None:
        """Write `status.csv` and `predictions.csv`; predictions first, so that a study listed as done has them."""
        found = [(one.study, *_cells(values)) for one in self.all for values in one.findings]
        write_text(folder / PREDICTIONS, csv_text(PREDICTION_COLUMNS, found))
        lines = [[getattr(one, column) for column in STATUS_COLUMNS] for one in self.all]
        write_text(folder / STATUS, csv_text(STATUS_COLUMNS, lines))

    @property
    def counts(self) -> Counter[Status]:
        """Return the numbers of studies that are done, skipped and failed."""
        return Counter(one.status for one in self.all)

    @property
    def lacking(self) -> list[str]:
        """Return a line for every study that is done but lacks an output that could not be written."""
        return [f"{one.study}: {one.reason}" for one in self.all if one.lacks_output]

    @property
    def reasons(self) -> list[str]:
        """Return the most frequent reasons why studies were skipped, failed or lack an output.

        Each line states one reason, and the number of studies.
        """
        reasons = Counter((one.status, one.reason) for one in self.all if one.status != "done" or one.lacks_output)
        return [f"{number} {status}: {reason}" for (status, reason), number in reasons.most_common(SHOWN_REASONS)]

    @property
    def first_reason(self) -> str:
        """Return the reason that is recorded for the first study; empty without a reason or without studies."""
        return next((one.reason for one in self.all), "")

    @property
    def failures(self) -> list[str]:
        """Return a line for every failed study."""
        return [f"{one.study}: {one.reason}" for one in self.all if one.status == "failed"]


def plain(finding: Finding) -> PlainFinding:
    """Return a finding as the values of its columns in `predictions.csv`."""
    low, high = finding.interval or (None, None)
    named = {"class": finding.label, "low": low, "high": high}
    return [named[one] if one in named else getattr(finding, one) for one in PREDICTION_COLUMNS[1:]]


def outcome_of(row: Mapping[str, Any]) -> StudyOutcome:
    """Return the outcome that a row of the database describes."""
    line = {column: row[column] for column in STATUS_COLUMNS[1:]}
    return StudyOutcome(row["name"], findings=tuple(json.loads(row["findings"])), **line)


def earlier_outcomes(folder: Path) -> list[StudyOutcome]:
    """Return the outcomes of the studies that are done according to `status.csv`; empty without this file.

    Raises:
        DataError: If a table is damaged.
    """
    done = [line for line in _table(folder / STATUS) if line["status"] == "done"]
    rows = _table(folder / PREDICTIONS) if done else []
    findings = {line["study"]: [row for row in rows if row["study"] == line["study"]] for line in done}
    return [
        StudyOutcome(
            line["study"],
            "done",
            "",
            line.get("reason", ""),
            line.get("seconds", ""),
            line.get("outputs", ""),
            tuple(
                [_value(row.get(column, "")) for column in PREDICTION_COLUMNS[1:]] for row in findings[line["study"]]
            ),
        )
        for line in done
    ]


def _table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [line for line in csv.DictReader(file) if line["study"]]
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError):
        raise DataError(f"{path} is damaged and cannot be read; give another output=...") from None


def _value(text: str) -> str | float | int | None:
    """Return the value that a cell of `predictions.csv` was written from: a number, a text, or nothing."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def _cells(finding: PlainFinding) -> list[str]:
    values = dict(zip(PREDICTION_COLUMNS[1:], finding, strict=True))
    digits = digits_of_call(values["probability"], values["threshold"])
    return ["" if one is None else f"{one:.{digits}g}" if isinstance(one, float) else str(one) for one in finding]


def digits_of_call(probability: Any, threshold: Any) -> int:
    """Return the significant digits with which the probability and threshold of a finding agree with its call.

    Without a call, whose threshold is None, these are `NUM_DIGITS`. Numbers that are equal after rounding need more
    digits, if one of them is below the other one.
    """
    if probability is None or threshold is None:
        return NUM_DIGITS
    is_above = probability >= threshold

    def agrees(digits: int) -> bool:
        return (float(f"{probability:.{digits}g}") >= float(f"{threshold:.{digits}g}")) == is_above

    return next(digits for digits in range(NUM_DIGITS, EXACT_DIGITS + 1) if agrees(digits))
