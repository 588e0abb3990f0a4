"""Labels from a table (CSV or Excel) with one row per image, study, series, examination or patient.

One column, the key column, identifies the images of a row; `labeling.by` selects it. By default it is `file`. A cell of
this column is the path of a file or folder relative to the source, or a unique file name, with or without extension. A
folder stands for all its images. Alternatively, the key column is a DICOM identifier. The columns `split` and
`patient` set split and patient. Every other column is a label; if `labeling.columns` is set, only the columns listed
there are. A column that may identify people is refused unless it is listed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from medvit.deidentification.identifiers import PATIENT, SPLIT, is_personal
from medvit.errors import DataError
from medvit.ingest.label_cells import (
    SEPARATOR,
    Grid,
    Line,
    classes_in,
    look_alikes,
    read_grid,
    shown,
    without_missing,
)
from medvit.ingest.label_keys import COLUMNS, KNOWN, ByFile, ByIdentifier, LabelBy, find_columns, nearest, plain
from medvit.ingest.labels import warn_of_look_alikes
from medvit.records import SPLIT_NAMES, Candidate, Split

log = logging.getLogger("medvit")

Unmatched = Literal["refuse", "warn"]
"""Handling of lines that match nothing in the source."""

EXPECTED: Mapping[LabelBy, str] = {
    "file": "a path relative to the source, or the name of a file that no other image has",
    "study": "the StudyInstanceUID of a study in the source",
    "series": "the SeriesInstanceUID of a series in the source",
    "accession": "the AccessionNumber of an examination in the source",
    "patient": "the PatientID of a patient in the source",
}
MIN_DISTINCT = 20
"""A text column with more lines than this, all different, is taken for identifiers."""


@dataclass(frozen=True)
class LabelTable:
    """Label table whose cells are read and checked; its rows are not yet matched to images."""

    path: Path
    by: LabelBy
    key: str
    """Key column, which identifies the images of each row."""
    columns: Mapping[str, str]
    """Label -> its column."""
    split_column: str
    patient_column: str
    annotated_column: str
    """Column with the annotated classes of label maps; empty if there is none."""
    lines: tuple[Line, ...] = field(repr=False)

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        by: LabelBy = "file",
        columns: Sequence[str] = (),
        missing: Sequence[str] | None = None,
        annotated: str = "",
    ) -> LabelTable:
        """Return the table in a file; `columns` are the labels, by default all columns but key, split and patient.

        `annotated` is the column that lists the annotated classes of label maps, which is not a label. `missing` lists
        the texts that mean a missing value; if unset, `label_cells.MISSING` is used.

        Raises:
            DataError: If a column is missing or personal, a line has an empty key or an unknown split, or a text may be
            a class or a missing value.
        """
        grid = read_grid(path)
        key = _key_column(grid.columns, by, path)
        of_maps = _column(grid, path, annotated, key) if annotated else ""
        chosen = _label_columns(grid, path, columns, key, of_maps)
        rest = [column for column in grid.columns if column != key and column not in chosen.values()]
        split, patient = ("".join(find_columns(rest, [name])[:1]) for name in (SPLIT, PATIENT))
        lines = without_missing(grid, [*chosen.values(), *filter(None, (split, patient))], path, missing).lines
        table = cls(path, by, key, chosen, split, patient, of_maps, lines)
        table._refuse([line.number for line in lines if not line.cells[key]], f"are empty in the column {key!r}")
        empty = [line.number for line in lines if of_maps and not classes_in(line.cells[of_maps])]
        if empty:
            raise DataError(
                f"{len(empty)} of the {len(lines)} lines of {path} are empty in the column {of_maps!r} (line "
                f"{shown(empty)}); expected the annotated classes, separated by {SEPARATOR}"
            )
        for line in lines:
            table._split(line)
        return table

    def labeled(
        self, candidates: Sequence[Candidate], files: Sequence[str] = (), unmatched: Unmatched = "refuse"
    ) -> tuple[Candidate, ...]:
        """Return the candidates with the labels, splits and patients of the table.

        `files` are the paths of all files of the source: a row about one of these files that is not an image is
        skipped. With `unmatched="warn"`, rows that match no file in the source are skipped and reported.

        Raises:
            DataError: If a line matches nothing in the source, or several images or patients at once; if no line
                matches an image; or if two lines contradict each other on one image. Lines are reported by number,
                because names of files and identifiers may identify patients.
        """
        find = ByFile(candidates, files) if self.by == "file" else ByIdentifier(candidates, self.by)
        lines_of: dict[int, Line] = {}
        unknown, ambiguous, contradicting = [], [], []
        for line in self.lines:
            matches = find(line.cells[self.key])
            if not matches.is_known:
                unknown.append(line)
            if matches.is_ambiguous:
                ambiguous.append(line.number)
            elif any(
                self._content(lines_of.setdefault(index, line)) != self._content(line) for index in matches.indices
            ):
                contradicting.append(line.number)
        alike = sum(find.is_alike(line.cells[self.key]) for line in unknown)
        hint = f"; {alike} of them would if letter case and leading zeros did not count" if alike else ""
        if unmatched == "refuse" or not lines_of:
            what = "a file" if self.by == "file" else f"a {self.key}"
            refusal = f"name {what} that the source does not have"
            advice = hint or ("; labeling.unmatched=warn skips such lines" if lines_of else "")
            self._refuse([line.number for line in unknown], refusal, advice)
        elif unknown:
            numbers = shown([line.number for line in unknown])
            log.warning(
                "%d rows of the label table match no image in the source (line %s)%s", len(unknown), numbers, hint
            )
        several = "images" if self.by == "file" else "patients"
        self._refuse(ambiguous, f"name several {several} at once")
        self._refuse(contradicting, "contradict an earlier line on the same image")
        if len(lines_of) < len(candidates):
            log.info("%d of %d images have no row in the label table", len(candidates) - len(lines_of), len(candidates))
        labeled = tuple(
            self._labeled(candidate, lines_of[index]) if index in lines_of else candidate
            for index, candidate in enumerate(candidates)
        )
        warn_of_look_alikes(labeled)
        self._warn_of_patients()
        return labeled

    def _content(self, line: Line) -> list[str]:
        """Return the labels, split, patient and annotated classes that a row assigns to its images."""
        others = (self.split_column, self.patient_column, self.annotated_column)
        return [line.cells.get(column, "") for column in (*self.columns.values(), *others)]

    def _split(self, line: Line) -> Split | None:
        text = line.cells.get(self.split_column, "")
        if not text:
            return None
        if text.casefold() not in SPLIT_NAMES:
            raise DataError(f"line {line.number} of {self.path} has an unknown split; expected train, val or test")
        return SPLIT_NAMES[text.casefold()]

    def _labeled(self, candidate: Candidate, line: Line) -> Candidate:
        labels = {key: line.cells[column] for key, column in self.columns.items() if line.cells[column]}
        labeled = candidate.with_labels(labels, self._split(line), line.cells.get(self.patient_column, ""))
        if not self.annotated_column:
            return labeled
        return replace(labeled, annotated=classes_in(line.cells[self.annotated_column]))

    def _refuse(self, numbers: Sequence[int], what: str, advice: str = "") -> None:
        if numbers:
            raise DataError(
                f"{len(numbers)} of the {len(self.lines)} lines of {self.path} {what} (line {shown(numbers)}); "
                f"expected in the column {self.key!r} {EXPECTED[self.by]}{advice}"
            )

    def _warn_of_patients(self) -> None:
        """Warn about lines with nearly equal patient identifiers, which count as different patients."""
        texts = [line.cells.get(self.patient_column, "") for line in self.lines]
        alike = {text for group in look_alikes(texts) for text in group}
        numbers = [line.number for line, text in zip(self.lines, texts, strict=True) if text in alike]
        if numbers:
            log.warning(
                "%d rows of the label table name patients that differ only in letter case, spaces or leading zeros "
                "(line %s); they count as different patients and may be in different splits: write each patient the "
                "same way in all rows",
                len(numbers),
                shown(numbers),
            )


def _key_column(there: Sequence[str], by: LabelBy, path: Path) -> str:
    """Return the key column, which identifies the images of a row."""
    found = find_columns(there, COLUMNS[by])
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"the label table {path} has several columns for labeling.by={by}: {', '.join(found)}; keep one of them"
        )
    others: list[LabelBy] = [other for other in COLUMNS if other != by and find_columns(there, COLUMNS[other])]
    near = nearest(there, COLUMNS[by])
    raise DataError(
        f"the labels {path} have no column {COLUMNS[by][0]!r} (found {len(there)} others); labeling.by={by} "
        "needs it as the key of a line"
        + (f"; nearest is {near!r}: rename it" if near else "")
        + (
            f"; labeling.by={others[0]} takes its column {find_columns(there, COLUMNS[others[0]])[0]!r}"
            if others
            else ""
        )
    )


def _column(grid: Grid, path: Path, name: str, key: str) -> str:
    """Return the column of a name, which is not the key column."""
    there = [column for column in grid.columns if column != key]
    found = find_columns(there, [name])
    if len(found) != 1:
        near = nearest(there, [name])
        raise DataError(
            f"the labels {path} have {'several columns' if found else 'no column'} {name!r}; found "
            f"{', '.join(found or there)}" + (f"; nearest is {near!r}" if near and not found else "")
        )
    return found[0]


def _label_columns(grid: Grid, path: Path, columns: Sequence[str], key: str, of_maps: str = "") -> dict[str, str]:
    """Return the column of each label, by the name of the label.

    The labels are those named in `columns`. If `columns` is empty, all columns are labels except the key column, the
    columns for split and patient, and `of_maps`.
    """
    if columns:
        return {name: _column(grid, path, name, key) for name in columns}
    chosen = {}
    for column in grid.columns:
        if column in (key, of_maps) or plain(column) in KNOWN:
            continue
        if is_personal(column) or _is_identifier(grid.lines, column):
            raise DataError(
                f"the column {column!r} of the labels {path} may identify patients; list the columns to use as labels, "
                "as in labeling.columns=[diagnosis]"
            )
        chosen[column] = column
    return chosen


def _is_identifier(lines: Sequence[Line], column: str) -> bool:
    texts = [line.cells[column] for line in lines]
    return len(texts) > MIN_DISTINCT and len(set(texts)) == len(texts) and not all(map(_is_number, texts))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d{1,4}(\.\d*)?|[-+]?\d*\.\d+", text) is not None
