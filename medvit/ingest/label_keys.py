"""Matching of label-table rows to images, by file, study, series, accession number or patient."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Literal

from medvit.deidentification.identifiers import FILE, PATIENT, SPLIT
from medvit.dicom.accession import read_accession
from medvit.ingest.label_cells import composed, folded, whole
from medvit.records import Candidate

LabelBy = Literal["file", "study", "series", "accession", "patient"]
"""Key of a label table: the kind of object that its lines name."""

COLUMNS: Mapping[LabelBy, tuple[str, ...]] = {
    "file": (FILE,),
    "study": ("StudyInstanceUID", "study", "study uid"),
    "series": ("SeriesInstanceUID", "series", "series uid"),
    "accession": ("AccessionNumber", "accession", "accession no"),
    "patient": ("PatientID", PATIENT),
}
"""Column names for each key, the DICOM name first; letter case, spaces and underscores are ignored."""


def plain(column: str) -> str:
    """Return the name of a column in the form that is used to compare column names."""
    return re.sub(r"[\s_.-]", "", composed(column)).casefold()


KNOWN = frozenset(plain(name) for names in COLUMNS.values() for name in names) | {SPLIT}
"""Columns that are used as labels only if they are named explicitly."""


def find_columns(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the columns that have one of these names, ignoring letter case and separators.

    If a column is spelled exactly like the first name, return only that column.
    """
    if names[0] in columns:
        return [names[0]]
    return [column for column in columns if plain(column) in set(map(plain, names))]


def nearest(columns: Sequence[str], names: Sequence[str]) -> str:
    """Return the column with a name similar to one of `names`, for an error message; empty without a similar name."""
    plains = {plain(column): column for column in columns}
    for name in names:
        for found in get_close_matches(plain(name), plains, n=1):
            return plains[found]
    return ""


@dataclass(frozen=True)
class Matches:
    """Indices of the candidates that a row of the label table matches.

    `is_ambiguous` is True if the row must refer to only one of these candidates, but does not state which: two images
    have the same file name, for example.
    """

    indices: Sequence[int] = ()
    is_ambiguous: bool = False
    is_known: bool = True
    """Whether the source contains the named file, study, series or patient; the file need not be an image."""


class ByFile:
    """Lookup of candidates by the path of a file or folder, or by file name."""

    def __init__(self, candidates: Sequence[Candidate], files: Sequence[str] = ()) -> None:
        self._places, self._names = _indexed(candidates, _places), _indexed(candidates, _names)
        self._known = frozenset(name for path in map(composed, files) for name in (path, *_file_names(path)))

    def __call__(self, text: str) -> Matches:
        """Return the candidates that a cell of the column `file` matches."""
        file = composed(text.replace("\\", "/").removeprefix("./").rstrip("/"))
        if file in self._places:
            return Matches(self._places[file])
        found = self._names.get(file) or self._names.get(whole(file), ())
        return Matches(found, len(found) > 1, bool(found) or file in self._known)

    def is_alike(self, text: str) -> bool:
        """Return whether a file name matches a candidate when letter case and leading zeros are ignored."""
        return folded(text) in {folded(name) for name in self._names}


class ByIdentifier:
    """Lookup of candidates by an identifier; an identifier shared by several patients is ambiguous."""

    def __init__(self, candidates: Sequence[Candidate], by: LabelBy) -> None:
        self._candidates = candidates
        self._found: dict[str, list[int]] = defaultdict(list)
        for index, candidate in enumerate(candidates):
            for text in dict.fromkeys(map(composed, _identifiers(candidate, by))):
                if text:
                    self._found[text].append(index)

    def __call__(self, text: str) -> Matches:
        """Return the candidates that have the identifier in a cell."""
        found = self._found.get(text) or self._found.get(whole(text), [])
        patients = {self._candidates[index].patient for index in found}
        return Matches(found, len(patients) > 1, bool(found))

    def is_alike(self, text: str) -> bool:
        """Return whether an identifier matches a candidate when letter case and leading zeros are ignored."""
        return folded(text) in {folded(known) for known in self._found}


def _identifiers(candidate: Candidate, by: LabelBy) -> tuple[str, ...]:
    identity = candidate.item.identity
    if by == "study":
        return (identity.study,)
    if by == "series":
        return (identity.series,)
    if by == "patient":
        return (identity.patient, candidate.patient.id)
    return (read_accession(candidate.item.files[0]),)


def _indexed(
    candidates: Sequence[Candidate], names: Callable[[Candidate], Iterator[str]]
) -> Mapping[str, Sequence[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for index, candidate in enumerate(candidates):
        for name in dict.fromkeys(names(candidate)):
            found[name].append(index)
    return found


def _places(candidate: Candidate) -> Iterator[str]:
    for path in map(composed, candidate.paths):
        yield path
        yield from (parent.as_posix() for parent in PurePosixPath(path).parents if parent.name)


def _names(candidate: Candidate) -> Iterator[str]:
    for path in map(composed, candidate.paths):
        yield from _file_names(path)


def _file_names(path: str) -> tuple[str, str]:
    name = PurePosixPath(path).name
    return name, re.sub(r"\.[^.]+$", "", name.removesuffix(".gz"))
