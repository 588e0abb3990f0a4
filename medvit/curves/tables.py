"""Scores of runs as a CSV table, from which they can be read again."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict

from medvit.curves.amounts import parse_amount
from medvit.curves.runs import CurveRun, Settings
from medvit.files.spreadsheets import csv_text


def table(scores: Mapping[CurveRun, float]) -> str:
    """Return the scores of runs as CSV, one line per run."""
    lines = [
        {key: value for key, value in asdict(one).items() if key != "settings"}
        | asdict(one.settings)
        | {"score": score}
        for one, score in scores.items()
    ]
    return csv_text(list(lines[0]) if lines else [], [list(line.values()) for line in lines])


def read_table(text: str) -> dict[CurveRun, float]:
    """Return the scores of runs from CSV (`table`)."""
    return {
        CurveRun(
            "tuning" if line["purpose"] == "tuning" else "test",
            line["arm"],
            line["way"],
            parse_amount(line["amount"]),
            int(line["draw"]),
            Settings(float(line["lr"]), int(line["steps"]), float(line["strength"])),
        ): float(line["score"])
        for line in csv.DictReader(text.splitlines())
    }
