"""Masks for expected differences between two runs of the same code, applied before golden outputs are compared."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MADE_IN, DATABASE = "made-in.txt", "mlflow.db"
"""File that names the folder in which the outputs were made, and database of MLflow."""

MASKED = "(masked)"

PROGRESS = re.compile(
    r"^(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d INFO [\w ]+: \d[^\n]*(?:/s|s/\w+)(?:, [^\n]* left[^\n]*)?(?:\n|$)",
    re.MULTILINE,
)
"""A line of progress: its frequency and its rates depend on the speed of the machine."""

TEXT_MASKS = (
    # Time at the start of a log line.
    (re.compile(r"^(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d (?=[A-Z]+ )", re.MULTILINE), ""),
    # Duration of a stage.
    (re.compile(r"(?<=: done in ).*"), MASKED),
)
"""Pattern and replacement, for every text."""

CELLS = {
    "status.csv": ("seconds",),  # duration of a study's prediction
}
"""Name of a table -> columns with durations."""

NEW_INSTANCES = (
    # Segmentations and annotations of a slide are instances in new series: highdicom draws their UIDs.
    "MediaStorageSOPInstanceUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    # It also draws UIDs inside them: dimensions and tracked segments, groups of annotations.
    "DimensionOrganizationUID",
    "TrackingUID",
    "AnnotationGroupUID",
    # Time of creation.
    "InstanceCreationDate",
    "InstanceCreationTime",
    "ContentDate",
    "ContentTime",
    "ContributionDateTime",
)
ELEMENTS = {"predictions/": NEW_INSTANCES}
"""Beginning of a path -> DICOM elements that, in the files there, depend on the current time or are random."""

STATES = re.compile(r"^[0-9a-f]{64}(?= )|(?<=\"state\": \")[0-9a-f]{64}(?=\")", re.MULTILINE)
"""Keyed hashes in .jsonl files that cover the source code of medvit: they change with every change of the code
(`taking_version`, `readers_version`).
"""

METADATA = ("metadata medvit_card", "metadata medvit_tiles.facts.state")
"""Places in the metadata of a table with hashes such as those of `STATES`: of the card, and of the tiles of a slide."""

RUN_TABLES: Mapping[str, str] = {
    # Times of a metric and of a run come from the clock; identifiers are random.
    "params": "SELECT run_uuid, key, value FROM params ORDER BY 1, 2",
    "metrics": "SELECT run_uuid, key, step, value, is_nan FROM metrics ORDER BY 1, 2, 3",
    "tags": "SELECT run_uuid, key, value FROM tags ORDER BY 1, 2",
    "runs": "SELECT run_uuid, name, status, lifecycle_stage FROM runs ORDER BY 1",
    "datasets": "SELECT name, digest FROM datasets ORDER BY 1, 2",
}
"""Tables of MLflow with records of a stage; the others are internal to MLflow."""


@dataclass(frozen=True)
class Names:
    """Names that are specific to a run, each with a common replacement."""

    replacements: Mapping[str, str]

    @classmethod
    def of_folder(cls, folder: Path) -> Names:
        """Return the names of golden outputs: their folder, and the MLflow runs in order of time."""
        made_in, database = folder / MADE_IN, folder / DATABASE
        names = {made_in.read_text(encoding="utf-8").strip(): "FOLDER"} if made_in.is_file() else {}
        if database.is_file():
            with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
                runs = connection.execute("SELECT run_uuid FROM runs ORDER BY start_time").fetchall()
            names |= {run: f"run-{number}" for number, (run,) in enumerate(runs, 1)}
        return cls(names)

    def replace(self, text: str) -> str:
        """Return a text with the names of this run replaced."""
        for name, shared in self.replacements.items():
            text = text.replace(name, shared)
        return text

    def lines(self, text: str) -> list[str]:
        """Return the lines of a text after all text masks; lines of progress are removed."""
        text = PROGRESS.sub("", self.replace(text))
        for pattern, replacement in TEXT_MASKS:
            text = pattern.sub(replacement, text)
        return [line for line in text.split("\n") if line.strip()]
