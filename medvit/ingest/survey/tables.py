"""Tables beside the images of a source: what their lines are about, and which columns could be labels.

Which column names images is known by its name, or by what its cells match. Only then is the first line sure to be a
header whose names may be printed; else it may be a line of patients.
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
"""Tables that are looked at, and their size."""
MAX_LEVELS = 10
"""Different numbers of a column that are classes, as grades are; more are measurements."""
MATCHED = 0.8
"""Share of the lines that name an image where a column names images by what it holds."""
BY_CONTENT: tuple[LabelBy, ...] = ("file", "study", "series", "patient")
"""What a column may name by its cells; accession numbers would take another look into each file."""


@dataclass(frozen=True)
class FoundTable:
    """A table and what it could be joined by. `classes` are the numbers of classes of the columns that have a few."""

    path: Path = field(repr=False)
    num_lines: int = 0
    columns: tuple[str, ...] = ()
    """Empty where the first line may be no header."""
    by: LabelBy | None = None
    key: str = ""
    """The column that says what a line is about."""
    num_matched: int = 0
    """Lines that name an image of the source."""
    classes: Mapping[str, int] = field(default_factory=dict)
    problem: str = field(default="", repr=False)
    """Why ingest would not take it as it is; may quote the path."""

    @property
    def is_usable(self) -> bool:
        """Whether ingest takes labels from it as it is."""
        return self.by is not None and bool(self.classes) and not self.problem and self.num_matched > 0


def find_tables(paths: Sequence[Path], candidates: Sequence[Candidate], files: Sequence[str]) -> tuple[FoundTable, ...]:
    """Return what is in some tables; those that could be joined with the candidates first."""
    found = [_look(path, candidates, files) for path in paths[:MAX_TABLES]]
    return tuple(sorted(found, key=lambda one: (not one.is_usable, one.by is None, -one.num_matched)))


def labeled(table: FoundTable, candidates: Sequence[Candidate], files: Sequence[str]) -> tuple[Candidate, ...]:
    """Return the candidates with the labels of a usable table.

    Raises:
        DataError: If its lines contradict each other or mean several images at once.
    """
    assert table.by is not None
    whole = LabelTable.read(table.path, by=table.by, columns=tuple(table.classes))
    return whole.labeled(candidates, files, "warn")


def _look(path: Path, candidates: Sequence[Candidate], files: Sequence[str]) -> FoundTable:
    if path.stat().st_size > MAX_BYTES:
        return FoundTable(path, problem=f"larger than {MAX_BYTES >> 20} MiB; it was not looked into")
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
    """Return what lines are about, the column that says it, how many match, and whether its name says so."""
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
            # A column whose name is that of an image has no name: the first line is one of cells.
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
    """Return the number of classes in each column that has a few and does not look as if it named people."""
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
