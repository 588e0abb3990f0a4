"""What may differ between two runs of the same code, and is therefore replaced before golden outputs are compared."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MADE_IN, DATABASE = "made-in.txt", "mlflow.db"
"""File that names the folder in which the outputs were made, and MLflow's."""

MASKED = "(masked)"

PROGRESS = re.compile(
    r"^(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d INFO [\w ]+: \d[^\n]*(?:/s|s/\w+)(?:, [^\n]* left[^\n]*)?(?:\n|$)",
    re.MULTILINE,
)
"""A line of progress: how often there is one, and its rates, follow the speed of the machine."""

TEXT_MASKS = (
    # The time that starts a log line.
    (re.compile(r"^(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d (?=[A-Z]+ )", re.MULTILINE), ""),
    # How long a stage took.
    (re.compile(r"(?<=: done in ).*"), MASKED),
)
"""Pattern and replacement, for every text."""

CELLS = {
    "status.csv": ("seconds",),  # how long a study took to predict
}
"""Name of a table -> columns that hold durations."""

NEW_INSTANCES = (
    # A segmentation, and annotations of a slide, are instances in series of their own: highdicom draws their UIDs.
    "MediaStorageSOPInstanceUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    # It draws those of what is inside, too: the dimensions and tracked segments, the groups of annotations.
    "DimensionOrganizationUID",
    "TrackingUID",
    "AnnotationGroupUID",
    # The moment at which they were made.
    "InstanceCreationDate",
    "InstanceCreationTime",
    "ContentDate",
    "ContentTime",
    "ContributionDateTime",
)
ELEMENTS = {"predictions/": NEW_INSTANCES}
"""Beginning of a path -> DICOM elements that are set to the present or drawn at random in the files there."""

STATES = re.compile(r"^[0-9a-f]{64}(?= )|(?<=\"state\": \")[0-9a-f]{64}(?=\")", re.MULTILINE)
"""Keyed hashes in .jsonl files that cover the source text of medvit: they decide what is read again, and follow every
change of the code (`taking_version`, `readers_version`)."""

METADATA = ("metadata medvit_card", "metadata medvit_tiles.facts.state")
"""Places of the same kind of hash in the metadata of a table: of what a card shows, and of the tiles of a slide."""

RUN_TABLES: Mapping[str, str] = {
    # Times of a metric and of a run are those of the clock; identifiers are drawn at random.
    "params": "SELECT run_uuid, key, value FROM params ORDER BY 1, 2",
    "metrics": "SELECT run_uuid, key, step, value, is_nan FROM metrics ORDER BY 1, 2, 3",
    "tags": "SELECT run_uuid, key, value FROM tags ORDER BY 1, 2",
    "runs": "SELECT run_uuid, name, status, lifecycle_stage FROM runs ORDER BY 1",
    "datasets": "SELECT name, digest FROM datasets ORDER BY 1, 2",
}
"""Tables of MLflow that hold what a stage records; the rest is MLflow's own."""


@dataclass(frozen=True)
class Names:
    """Names that only one run has, each with a name that all runs share."""

    replacements: Mapping[str, str]

    @classmethod
    def of_folder(cls, folder: Path) -> Names:
        """Return the names of golden outputs: the folder they were made in, and the MLflow runs in order of time."""
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
        """Return the lines of a text after all masks for texts; lines of progress go."""
        text = PROGRESS.sub("", self.replace(text))
        for pattern, replacement in TEXT_MASKS:
            text = pattern.sub(replacement, text)
        return [line for line in text.split("\n") if line.strip()]
