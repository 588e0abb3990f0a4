"""Labels from a table (CSV): a line an image, found by the path or the name of its file.

The column `file` holds a path relative to the source (of a file, or of a folder: all images in it are meant), or a file
name, with or without its ending, that no two images share. `split` and `patient` may say just that. Every other column,
or those named, is a label; a column that looks as if it named people is refused unless it is named.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medvit.deidentification.identifiers import FILE, PATIENT, SPLIT, is_personal
from medvit.errors import DataError
from medvit.records import SPLIT_NAMES, Candidate, Split

DELIMITERS = ",;\t"
SHOWN_LINES = 3
MIN_DISTINCT = 20
"""A text column with more lines than this and a different text in each is taken for identifiers."""


@dataclass(frozen=True)
class _Line:
    number: int
    """As a person counts who opens the file: the header is line 1."""
    cells: Mapping[str, str] = field(repr=False)

    @property
    def file(self) -> str:
        """What it calls the file, with forward slashes."""
        return self.cells[FILE].replace("\\", "/").removeprefix("./").rstrip("/")

    @property
    def said(self) -> Mapping[str, str]:
        """What it says of the file."""
        return {column: cell for column, cell in self.cells.items() if column != FILE}


def from_table(
    candidates: Sequence[Candidate], path: Path, *, columns: Sequence[str] = (), files: Sequence[str] = ()
) -> tuple[Candidate, ...]:
    """The candidates with what a table says of them; of `columns`, or of all but the known ones.

    `files` are the paths of all files of the source: a line about one that holds no image is passed over.

    Raises:
        DataError: If a line names a file that the source does not have or several images, if two lines differ on one
            image, or if a column is missing or personal. Lines are told by their number: file names may name patients.
    """
    lines = _read(path)
    chosen = _label_columns(lines, path, columns)
    places, names, known = _by_path(candidates), _by_name(candidates), _names(files)
    said: dict[int, _Line] = {}
    unknown, ambiguous, contradicting = [], [], []
    for line in lines:
        matches = places.get(line.file) or names.get(line.file, ())
        if not matches and line.file not in known:
            unknown.append(line.number)
        if len(matches) > 1 and line.file not in places:
            ambiguous.append(line.number)
        elif any(said.setdefault(index, line).said != line.said for index in matches):
            contradicting.append(line.number)
    _refuse(path, unknown, len(lines), "name a file that the source does not have")
    _refuse(path, ambiguous, len(lines), "name several images at once")
    _refuse(path, contradicting, len(lines), "say something else than an earlier line on the same image")
    return tuple(
        _told(candidate, said[index], chosen, path) if index in said else candidate
        for index, candidate in enumerate(candidates)
    )


def _read(path: Path) -> list[_Line]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(DELIMITERS, key=header.count), restkey="", restval="")
            lines = [_Line(reader.line_num, _cells(cells)) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a CSV file in UTF-8"
        raise DataError(f"the labels {path} cannot be read: {reason}") from None
    if not lines or FILE not in lines[0].cells:
        found = f"{len(lines[0].cells)} others" if lines else "no line below the header"
        raise DataError(f"the labels {path} have no column {FILE!r} (found {found}); it says which image is meant")
    return [line for line in lines if line.cells[FILE]]


def _cells(cells: Mapping[str, str]) -> dict[str, str]:
    return {key.strip(): cell.strip() for key, cell in cells.items() if key}


def _label_columns(lines: Sequence[_Line], path: Path, columns: Sequence[str]) -> Sequence[str]:
    there = list(lines[0].cells) if lines else []
    missing = [column for column in columns if column not in there]
    if missing:
        raise DataError(f"the labels {path} have no column {missing[0]!r}; found {', '.join(there)}")
    chosen = columns or [column for column in there if column not in (FILE, SPLIT, PATIENT) and column]
    for column in chosen:
        if column not in columns and (is_personal(column) or _is_identifier(lines, column)):
            raise DataError(
                f"the column {column!r} of the labels {path} may identify patients; "
                "name the columns to take, as in label_columns=[diagnosis]"
            )
    return chosen


def _is_identifier(lines: Sequence[_Line], column: str) -> bool:
    texts = [line.cells[column] for line in lines]
    return len(texts) > MIN_DISTINCT and len(set(texts)) == len(texts) and not all(map(_is_number, texts))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d{1,4}(\.\d*)?|[-+]?\d*\.\d+", text) is not None


def _by_path(candidates: Sequence[Candidate]) -> Mapping[str, Sequence[int]]:
    """The indices of the candidates at a path, or below a folder."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, candidate in enumerate(candidates):
        for place in dict.fromkeys(place for path in candidate.paths for place in (path, *_parents(path))):
            found[place].append(index)
    return found


def _by_name(candidates: Sequence[Candidate]) -> Mapping[str, Sequence[int]]:
    """The indices of the candidates with a file of a name, with or without its ending."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, candidate in enumerate(candidates):
        for name in dict.fromkeys(name for path in candidate.paths for name in _file_names(path)):
            found[name].append(index)
    return found


def _names(files: Sequence[str]) -> frozenset[str]:
    return frozenset(name for path in files for name in (path, *_file_names(path)))


def _parents(path: str) -> list[str]:
    return [parent.as_posix() for parent in PurePosixPath(path).parents if parent.name]


def _file_names(path: str) -> tuple[str, str]:
    name = PurePosixPath(path).name
    return name, re.sub(r"\.[^.]+$", "", name.removesuffix(".gz"))


def _refuse(path: Path, numbers: Sequence[int], num_lines: int, what: str) -> None:
    if numbers:
        shown = ", ".join(map(str, numbers[:SHOWN_LINES])) + (", ..." if len(numbers) > SHOWN_LINES else "")
        raise DataError(
            f"{len(numbers)} of the {num_lines} lines of {path} {what} (line {shown}); expected in the column {FILE!r} "
            "a path relative to the source, or the name of a file that no other image has"
        )


def _told(candidate: Candidate, line: _Line, columns: Sequence[str], path: Path) -> Candidate:
    labels = {column: line.cells[column] for column in columns if line.cells[column]}
    return candidate.with_labels(labels, _split(line, path), line.cells.get(PATIENT, ""))


def _split(line: _Line, path: Path) -> Split | None:
    text = line.cells.get(SPLIT, "")
    if not text:
        return None
    if text.casefold() not in SPLIT_NAMES:
        raise DataError(f"line {line.number} of {path} has no known split; expected train, val or test")
    return SPLIT_NAMES[text.casefold()]
