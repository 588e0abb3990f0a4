"""Cells of a label table as normalized text, with missing values recognized.

Texts are in Unicode NFC and without surrounding spaces, and a whole number that a program wrote as `1.0` becomes `1`.
Ambiguous tables are refused. A table is ambiguous if it has rows longer than the header, two columns of the same name,
or unclosed quotes. It is also ambiguous if it has texts such as `None` or `-`, which are a class in some tables and
mean a missing value in others.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path

from medvit.errors import DataError

log = logging.getLogger("medvit")

DELIMITERS = ",;\t"
SEPARATOR = ";"
"""Separator of the classes in a cell that lists several."""
SHOWN_LINES = 3
ZIP = b"PK\3\4"
"""First bytes of an Excel file (.xlsx)."""

MISSING = ("NA", "n/a", "nan", "NULL", "#N/A")
"""Texts for a missing value, in any letter case, in addition to the empty text (R, BIDS, pandas, SQL, Excel)."""
AMBIGUOUS = frozenset(
    ("none", "-", "--", "+", ".", "?", "n.a.", "nil", "<na>", "nat")
    + ("#null!", "#value!", "#ref!", "#div/0!", "#name?", "#num!")
)
"""Texts, in lower case, that may be a class or a missing value; refused unless `missing` is given."""
NEGATIVE = "none"
"""The one ambiguous text that is accepted as a class, if the column has exactly one other class: `present` and
`none`.
"""

_WHOLE = re.compile(r"([-+]?\d+)\.0+")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200e\u200f\u2060\ufeff\0"))


@dataclass(frozen=True)
class Line:
    """Cells of one row, by column; `number` is the line number in a text editor, where the header is line 1."""

    number: int
    cells: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Grid:
    """Columns of a table in their order, and its non-empty rows."""

    columns: tuple[str, ...]
    lines: tuple[Line, ...] = field(repr=False)


def composed(text: str) -> str:
    """Return a text in Unicode NFC, without invisible characters and without spaces around it."""
    return unicodedata.normalize("NFC", text.translate(_INVISIBLE)).strip()


def whole(text: str) -> str:
    """Return `1` for a whole number written as a float, such as `1.0`; return any other text unchanged."""
    found = _WHOLE.fullmatch(text)
    return found[1] if found else text


def folded(text: str) -> str:
    """Return a text in the form for loose comparison.

    The comparison ignores letter case, repeated spaces, leading zeros, and trailing zeros of decimals.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", plain)
    return plain.rstrip("0").removesuffix(".") if re.fullmatch(r"[-+]?\d+\.\d+", plain) else plain


def look_alikes(texts: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of different texts that differ only in letter case, spaces or leading zeros."""
    groups: dict[str, list[str]] = defaultdict(list)
    for text in dict.fromkeys(texts):
        groups[folded(text)].append(text)
    return [tuple(sorted(group)) for group in groups.values() if len(group) > 1]


def read_grid(path: Path) -> Grid:
    """Return the cells of a CSV file (UTF-8; commas, semicolons or tabs) or of the only sheet of an Excel file.

    Raises:
        DataError: If the file cannot be read or has no rows, two columns have the same name, or a row is longer than
            the header.
    """
    rows = _sheet_rows(path) if _is_excel(path) else _csv_rows(path)
    if len(rows) < 2:
        raise DataError(
            f"the label table {path} has no row below the header; expected a header with column names, then at least "
            "one row"
        )
    return _grid(path, rows)


def without_missing(grid: Grid, columns: Sequence[str], path: Path, missing: Sequence[str] | None) -> Grid:
    """Return the grid with missing values of `columns` empty, and whole numbers such as `1.0` as `1`; log the changes.

    `missing` lists the texts that mean a missing value. If it is unset, `MISSING` is used, and ambiguous texts are
    refused.

    Raises:
        DataError: If a column contains a text of `AMBIGUOUS` and `missing` is unset.
    """
    known = {text.casefold() for text in (MISSING if missing is None else missing)}
    counts: dict[str, Counter[str]] = {column: Counter() for column in columns}
    num_whole = Counter[str]()
    lines = []
    for line in grid.lines:
        cells = dict(line.cells)
        for column in columns:
            text = whole(cells[column])
            num_whole[column] += text != cells[column]
            if text and text.casefold() in known:
                counts[column][text] += 1
                text = ""
            cells[column] = text
        lines.append(Line(line.number, cells))
    for column in columns:
        if missing is None:
            _refuse_ambiguous(column, lines, path)
        if counts[column]:
            texts = ", ".join(sorted(counts[column]))
            log.warning("%d cells of column %s are read as missing values (%s)", counts[column].total(), column, texts)
        if num_whole[column]:
            log.info(
                "%d cells of column %s are whole numbers written as 1.0; they are read as 1", num_whole[column], column
            )
    return Grid(grid.columns, tuple(lines))


def classes_in(cell: str) -> tuple[str, ...]:
    """Return the classes that a cell of the label table lists; an empty tuple for an empty cell."""
    return tuple(filter(None, (name.strip() for name in cell.split(SEPARATOR))))


def shown(numbers: Sequence[int]) -> str:
    """Return the first few line numbers as text, followed by an ellipsis if there are more."""
    return ", ".join(map(str, numbers[:SHOWN_LINES])) + (", ..." if len(numbers) > SHOWN_LINES else "")


def _refuse_ambiguous(column: str, lines: Sequence[Line], path: Path) -> None:
    texts = {line.cells[column] for line in lines} - {""}
    found = sorted(text for text in texts if text.casefold() in AMBIGUOUS)
    if not found:
        return
    others = {folded(text) for text in texts} - AMBIGUOUS
    if {text.casefold() for text in found} == {NEGATIVE} and len(others) == 1:
        log.info("%r is a class of column %s, since it has only one other", found[0], column)
        return
    numbers = [line.number for line in lines if line.cells[column] in found]
    examples = ", ".join(map(repr, found))
    listed = ",".join((*(repr(text) if text.startswith("#") else text for text in MISSING), *map(repr, found)))
    raise DataError(
        f"the column {column!r} of the label table {path} contains {examples} (line {shown(numbers)}), which may be a "
        f"class or a missing value; give labeling.missing=[{listed}] if it means missing, or a list without it if it "
        "is a class"
    )


def _grid(path: Path, rows: Sequence[tuple[int, Sequence[str]]]) -> Grid:
    columns = tuple(map(composed, rows[0][1]))
    twice = [column for column, number in Counter(columns).items() if column and number > 1]
    if twice:
        raise DataError(f"the label table {path} has two columns named {twice[0]!r}; rename or remove one of them")
    there = [(number, tuple(map(composed, cells))) for number, cells in rows[1:]]
    there = [(number, cells) for number, cells in there if any(cells)]
    longer = [number for number, cells in there if any(cells[len(columns) :])]
    if longer:
        raise DataError(
            f"{len(longer)} of the {len(there)} lines of {path} have more cells than the header (line "
            f"{shown(longer)}); expected {len(columns)} cells: put a text that contains the delimiter in double "
            "quotes"
        )
    unnamed = [n for n, column in enumerate(columns) if not column]
    shorter = [number for number, cells in there if len(cells) < len(columns)]
    if shorter:
        log.warning("%d rows of the label table end before the last column (line %s)", len(shorter), shown(shorter))
    padded = ((number, (*cells, *[""] * (len(columns) - len(cells)))) for number, cells in there)
    if unnamed:
        log.info("%d columns of the label table have no name and are ignored", len(unnamed))
    lines = [
        Line(number, {column: cell for column, cell in zip(columns, cells, strict=False) if column})
        for number, cells in padded
    ]
    return Grid(tuple(filter(None, columns)), tuple(lines))


def _is_excel(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(ZIP)) == ZIP
    except OSError:
        return False  # reading it will report why


def _sheet_rows(path: Path) -> list[tuple[int, Sequence[str]]]:
    """Return the rows of the only sheet with content, each with its line number and its cells as text.

    A formula is replaced by its value.
    """
    from openpyxl import load_workbook

    try:
        book = load_workbook(path, data_only=True, keep_links=False)
    except Exception as error:  # any exception that openpyxl, zipfile or expat raises for a damaged archive
        raise DataError(
            f"the label table {path} cannot be read as an Excel file ({type(error).__name__}); expected .xlsx: save "
            "it again, or as CSV"
        ) from None
    sheets = [sheet for sheet in book.worksheets if sheet.max_row > 1 or sheet.max_column > 1]
    if len(sheets) != 1:
        raise DataError(
            f"the label table {path} has {len(sheets)} sheets with content; expected one: save that sheet as a "
            "separate file"
        )
    if sheets[0].merged_cells.ranges:
        place = min(sheets[0].merged_cells.ranges, key=lambda cells: cells.min_row)
        raise DataError(
            f"the label table {path} has merged cells at {place.coord}; expected a value in every cell: unmerge them"
        )
    rows = enumerate(sheets[0].iter_rows(), start=1)
    return [(number, [_cell_text(cell.value, str(cell.number_format)) for cell in cells]) for number, cells in rows]


def _cell_text(value: object, shown_as: str) -> str:
    """Return the value of an Excel cell as it would be written in CSV, with dates in ISO 8601.

    `shown_as` is the number format of the cell, which may require leading zeros.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and re.fullmatch("0+", shown_as):
        return str(value).zfill(len(shown_as))
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _csv_rows(path: Path) -> list[tuple[int, Sequence[str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error.strerror) if isinstance(error, OSError) else "it is not in UTF-8; save it as CSV UTF-8"
        raise DataError(f"the label table {path} cannot be read: {reason}") from None
    says = re.match(r"sep=(.)\n", text)  # how some programs write the delimiter, and Excel reads it
    parsed = [_parsed(text[says.end() if says else 0 :], delimiter) for delimiter in (says[1] if says else DELIMITERS)]
    whole_tables = [rows for rows in parsed if not isinstance(rows, csv.Error)]
    best = max(whole_tables, key=_fitness, default=[])
    broken = next((error for error in parsed if isinstance(error, csv.Error)), None)
    if broken is not None and (not best or len(best[0][1]) < 2):
        raise DataError(
            f"the label table {path} cannot be read: quotes do not match ({broken}); expected closed double quotes, "
            "doubled inside a quoted text"
        )
    return [(number + bool(says), cells) for number, cells in best]


def _parsed(text: str, delimiter: str) -> list[tuple[int, Sequence[str]]] | csv.Error:
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        return error


def _fitness(rows: Sequence[tuple[int, Sequence[str]]]) -> tuple[bool, int]:
    """Return a sort key for choosing the delimiter of a CSV file, from the rows that a delimiter gives.

    The first element states whether all rows have as many cells as the header, and more than one. The second element is
    the number of cells of the header.
    """
    if not rows:
        return False, 0
    num_columns = len(rows[0][1])
    return num_columns > 1 and all(len(cells) == num_columns for _, cells in rows), num_columns
