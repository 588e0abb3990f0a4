"""Labels from a table (CSV): a line an image, found by the path or the name of its file.

The column `file` holds a path relative to the source (of a file, or of a folder: all images in it are meant), or a file
name, with or without its ending, that no two images share. `split` and `patient` may say just that. Every other column,
or those named, is a label; a column that looks as if it named people is refused unless it is named.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medvit.deidentification.identifiers import FILE, PATIENT, SPLIT, is_personal
from medvit.errors import DataError
from medvit.ingest.label_cells import Line, composed, look_alikes, read_grid, shown, whole, without_missing
from medvit.ingest.labels import warn_of_look_alikes
from medvit.records import SPLIT_NAMES, Candidate, Split

log = logging.getLogger("medvit")

MIN_DISTINCT = 20
"""A text column with more lines than this and a different text in each is taken for identifiers."""


@dataclass(frozen=True)
class LabelTable:
    """A table that was read and checked as far as it can be without the images it is about."""

    path: Path
    columns: tuple[str, ...]
    """Those that are labels."""
    lines: tuple[Line, ...] = field(repr=False)

    @classmethod
    def read(cls, path: Path, *, columns: Sequence[str] = (), missing: Sequence[str] | None = None) -> LabelTable:
        """Return the table in a file with the labels in `columns`, or in all but the known ones.

        `missing` are the texts that mean a missing value; unset, `label_cells.MISSING`.

        Raises:
            DataError: If a column is missing or personal, a line names no image or an unknown split, or a text may be
                a class or mean missing.
        """
        grid = read_grid(path)
        if FILE not in grid.columns:
            found = f"{len(grid.columns)} others"
            raise DataError(f"the labels {path} have no column {FILE!r} (found {found}); it says which image is meant")
        chosen = tuple(_label_columns(grid.lines, grid.columns, path, columns))
        known = [column for column in (SPLIT, PATIENT) if column in grid.columns and column not in chosen]
        lines = without_missing(grid, [*chosen, *known], path, missing).lines
        table = cls(path, chosen, lines)
        unnamed = [line.number for line in lines if not line.cells[FILE]]
        table._refuse(unnamed, f"are empty in the column {FILE!r}")
        for line in lines:
            table.split(line)
        return table

    def said(self, line: Line) -> Mapping[str, str]:
        """Return what a line says of its images: labels, split and patient."""
        return {column: line.cells.get(column, "") for column in (*self.columns, SPLIT, PATIENT)}

    def split(self, line: Line) -> Split | None:
        """Return the split that a line says."""
        text = line.cells.get(SPLIT, "")
        if not text:
            return None
        if text.casefold() not in SPLIT_NAMES:
            raise DataError(f"line {line.number} of {self.path} has no known split; expected train, val or test")
        return SPLIT_NAMES[text.casefold()]

    def labeled(self, candidates: Sequence[Candidate], files: Sequence[str] = ()) -> tuple[Candidate, ...]:
        """Return the candidates with what the table says of them.

        `files` are the paths of all files of the source: a line about one that holds no image is passed over.

        Raises:
            DataError: If a line names a file that the source does not have or several images, or if two lines differ
                on one image. Lines are told by their number: file names may name patients.
        """
        places, names, known = _by_path(candidates), _by_name(candidates), _names(files)
        said: dict[int, Line] = {}
        unknown, ambiguous, contradicting = [], [], []
        for line in self.lines:
            file = composed(line.cells[FILE].replace("\\", "/").removeprefix("./").rstrip("/"))
            matches = places.get(file) or names.get(file) or names.get(whole(file), ())
            if not matches and file not in known:
                unknown.append(line.number)
            if len(matches) > 1 and file not in places:
                ambiguous.append(line.number)
            elif any(self.said(said.setdefault(index, line)) != self.said(line) for index in matches):
                contradicting.append(line.number)
        self._refuse(unknown, "name a file that the source does not have")
        self._refuse(ambiguous, "name several images at once")
        self._refuse(contradicting, "say something else than an earlier line on the same image")
        labeled = tuple(
            self._labeled(candidate, said[index]) if index in said else candidate
            for index, candidate in enumerate(candidates)
        )
        warn_of_look_alikes(labeled)
        self._warn_of_patients()
        return labeled

    def _labeled(self, candidate: Candidate, line: Line) -> Candidate:
        labels = {column: line.cells[column] for column in self.columns if line.cells[column]}
        return candidate.with_labels(labels, self.split(line), line.cells.get(PATIENT, ""))

    def _refuse(self, numbers: Sequence[int], what: str) -> None:
        if numbers:
            raise DataError(
                f"{len(numbers)} of the {len(self.lines)} lines of {self.path} {what} (line {shown(numbers)}); "
                f"expected in the column {FILE!r} a path relative to the source, or the name of "
                "a file that no other image has"
            )

    def _warn_of_patients(self) -> None:
        """Report patients whose identifiers are alike, by line: they are different patients here."""
        alike = {text for group in look_alikes(line.cells.get(PATIENT, "") for line in self.lines) for text in group}
        numbers = [line.number for line in self.lines if line.cells.get(PATIENT, "") in alike]
        if numbers:
            log.warning(
                "%d lines of the labels name patients that differ in letter case, spaces or leading zeros alone "
                "(line %s); they are taken as different patients and may fall into different splits: write a patient "
                "alike in all lines",
                len(numbers),
                shown(numbers),
            )


def from_table(
    candidates: Sequence[Candidate], path: Path, *, columns: Sequence[str] = (), files: Sequence[str] = ()
) -> tuple[Candidate, ...]:
    """Return the candidates with what a table says of them; see `LabelTable`."""
    return LabelTable.read(path, columns=columns).labeled(candidates, files)


def _label_columns(lines: Sequence[Line], there: Sequence[str], path: Path, columns: Sequence[str]) -> Sequence[str]:
    missing = [column for column in columns if column not in there]
    if missing:
        raise DataError(f"the labels {path} have no column {missing[0]!r}; found {', '.join(there)}")
    chosen = columns or [column for column in there if column not in (FILE, SPLIT, PATIENT)]
    for column in chosen:
        if column not in columns and (is_personal(column) or _is_identifier(lines, column)):
            raise DataError(
                f"the column {column!r} of the labels {path} may identify patients; "
                "name the columns to take, as in label_columns=[diagnosis]"
            )
    return chosen


def _is_identifier(lines: Sequence[Line], column: str) -> bool:
    texts = [line.cells[column] for line in lines if line.cells[FILE]]
    return len(texts) > MIN_DISTINCT and len(set(texts)) == len(texts) and not all(map(_is_number, texts))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d{1,4}(\.\d*)?|[-+]?\d*\.\d+", text) is not None


def _by_path(candidates: Sequence[Candidate]) -> Mapping[str, Sequence[int]]:
    """The indices of the candidates at a path, or below a folder."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, candidate in enumerate(candidates):
        paths = [composed(path) for path in candidate.paths]
        for place in dict.fromkeys(place for path in paths for place in (path, *_parents(path))):
            found[place].append(index)
    return found


def _by_name(candidates: Sequence[Candidate]) -> Mapping[str, Sequence[int]]:
    """The indices of the candidates with a file of a name, with or without its ending."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, candidate in enumerate(candidates):
        paths = [composed(path) for path in candidate.paths]
        for name in dict.fromkeys(name for path in paths for name in _file_names(path)):
            found[name].append(index)
    return found


def _names(files: Sequence[str]) -> frozenset[str]:
    return frozenset(name for path in map(composed, files) for name in (path, *_file_names(path)))


def _parents(path: str) -> list[str]:
    return [parent.as_posix() for parent in PurePosixPath(path).parents if parent.name]


def _file_names(path: str) -> tuple[str, str]:
    name = PurePosixPath(path).name
    return name, re.sub(r"\.[^.]+$", "", name.removesuffix(".gz"))
