"""Tables next to the images of a source: their key columns and possible label columns.

A key column is recognized by its name, or by cells that match images. If there is a key column, the first line is
certain to be a header, and its column names may be printed. Without one, the first line may describe a patient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medvit.deidentification.identifiers import is_personal
from medvit.errors import DataError
from medvit.ingest.label_cells import MISSING, Grid, read_grid
from medvit.ingest.label_keys import COLUMNS, KNOWN, ByFile, ByIdentifier, LabelBy, Matches, find_columns, plain
from medvit.ingest.label_table import LabelTable
from medvit.ingest.labels import MAX_CLASSES
from medvit.records import Candidate

SUFFIXES = (".csv", ".tsv", ".xlsx")
MAX_TABLES, MAX_BYTES = 20, 2**26
"""Maximum number of tables that are read, and maximum bytes of a table."""
MAX_LEVELS = 10
"""Maximum number of different numbers in a column of classes, such as grades; more are measurements."""
MATCHED = 0.8
"""Minimum share of lines that match an image for a key column recognized by its cells."""
BY_CONTENT: tuple[LabelBy, ...] = ("file", "study", "series", "patient")
"""Keys that cells are matched against; accession numbers would require reading each file again."""


@dataclass(frozen=True)
class FoundTable:
    """Table next to the images of a source.

    `by`, `key` and `num_matched` describe its key column: key type, name, and number of cells that match images. `by`
    is None without a key column. `classes` maps each possible label column to its number of classes.
    """

    path: Path = field(repr=False)
    num_lines: int = 0
    columns: tuple[str, ...] = ()
    """Column names; empty if the first line may not be a header."""
    by: LabelBy | None = None
    key: str = ""
    """Key column, which identifies the images of each line."""
    num_matched: int = 0
    """Number of lines that match an image of the source."""
    classes: Mapping[str, int] = field(default_factory=dict)
    problem: str = field(default="", repr=False)
    """Why ingest would not use the table as it is, empty if it would; may quote the path."""

    @property
    def is_usable(self) -> bool:
        """Whether ingest can use labels from this table without changes."""
        return self.by is not None and bool(self.classes) and not self.problem and self.num_matched > 0


def find_tables(paths: Sequence[Path], candidates: Sequence[Candidate], files: Sequence[str]) -> tuple[FoundTable, ...]:
    """Return the contents of the tables in `paths`; tables that match the candidates come first."""
    found = [_look(path, candidates, files) for path in paths[:MAX_TABLES]]
    return tuple(sorted(found, key=lambda one: (not one.is_usable, one.by is None, -one.num_matched)))


def labeled(table: FoundTable, candidates: Sequence[Candidate], files: Sequence[str]) -> tuple[Candidate, ...]:
    """Return the candidates with the labels of a usable table.

    Raises:
        DataError: If rows contradict each other, or match several images at once.
    """
    assert table.by is not None
    whole = LabelTable.read(table.path, by=table.by, columns=tuple(table.classes))
    return whole.labeled(candidates, files, "warn")


def _look(path: Path, candidates: Sequence[Candidate], files: Sequence[str]) -> FoundTable:
    if path.stat().st_size > MAX_BYTES:
        return FoundTable(path, problem=f"larger than {MAX_BYTES >> 20} MiB; it was not read")
    try:
        grid = read_grid(path)
    except DataError as error:
        return FoundTable(path, problem=str(error))
    by, key, num_matched, is_named = _joined(grid, candidates, files)
    if by is None:
        problem = "no column names images of this source"
        return FoundTable(path, len(grid.lines), problem=problem)
    table = FoundTable(path, len(grid.lines), grid.columns, by, key, num_matched, _classes(grid, key))
    if not is_named:
        return replace(table, problem=f"rename its column {key!r} to {COLUMNS[by][0]!r}")
    try:
        if table.classes:
            labeled(table, candidates, files)
    except DataError as error:
        return replace(table, problem=str(error))
    return table


def _joined(grid: Grid, candidates: Sequence[Candidate], files: Sequence[str]) -> tuple[LabelBy | None, str, int, bool]:
    """Find the key column of a table: the column whose cells match the most candidates.

    Return the key type, the name of the key column, the number of matching cells, and whether the column was recognized
    by its name. Without a key column, return (None, "", 0, False).
    """
    by_name = [(by, columns[0]) for by in COLUMNS if len(columns := find_columns(grid.columns, COLUMNS[by])) == 1]
    best: tuple[LabelBy | None, str, int, bool] = (None, "", 0, False)
    for by, column in by_name:
        matched = _num_matched(grid, column, _index(by, candidates, files))
        if matched > best[2]:
            best = (by, column, matched, True)
    if best[0] is not None:
        return best
    for by in BY_CONTENT:
        index = _index(by, candidates, files)
        for column in grid.columns:
            # A column whose name matches an image has no header: the first line consists of cells.
            matched = 0 if index(column).is_known else _num_matched(grid, column, index)
            if matched > best[2] and matched >= MATCHED * len(grid.lines) and _num_texts(grid, column) > 2:
                best = (by, column, matched, False)
    return best


def _index(by: LabelBy, candidates: Sequence[Candidate], files: Sequence[str]) -> ByFile | ByIdentifier:
    return ByFile(candidates, files) if by == "file" else ByIdentifier(candidates, by)


def _num_matched(grid: Grid, column: str, index: ByFile | ByIdentifier) -> int:
    def is_matched(found: Matches) -> bool:
        return bool(found.indices) and not found.is_ambiguous

    return sum(bool(text) and is_matched(index(text)) for text in (line.cells[column] for line in grid.lines))


def _num_texts(grid: Grid, column: str) -> int:
    return len({line.cells[column] for line in grid.lines})


def _classes(grid: Grid, key: str) -> dict[str, int]:
    """Return the number of classes in each possible label column.

    Such a column has few classes and does not seem to name people.
    """
    missing = {text.casefold() for text in ("", *MISSING)}
    found = {}
    for column in grid.columns:
        if column == key or plain(column) in KNOWN or is_personal(column):
            continue
        texts = {text for line in grid.lines if (text := line.cells[column]).casefold() not in missing}
        most = MAX_LEVELS if all(re.fullmatch(r"[-+]?\d*\.?\d+", text) for text in texts) else MAX_CLASSES
        if 2 <= len(texts) <= min(most, len(grid.lines) // 2):
            found[column] = len(texts)
    return found
