"""Which images a line of a label table is about: by file, study, series, accession number or patient."""

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
"""What a line of a table names."""

COLUMNS: Mapping[LabelBy, tuple[str, ...]] = {
    "file": (FILE,),
    "study": ("StudyInstanceUID", "study", "study uid"),
    "series": ("SeriesInstanceUID", "series", "series uid"),
    "accession": ("AccessionNumber", "accession", "accession no"),
    "patient": ("PatientID", PATIENT),
}
"""Names of the column for each, the one of DICOM first; letter case, spaces and underscores do not count."""


def plain(column: str) -> str:
    """Return the name of a column without what does not count in it."""
    return re.sub(r"[\s_.-]", "", composed(column)).casefold()


KNOWN = frozenset(plain(name) for names in COLUMNS.values() for name in names) | {SPLIT}
"""Columns that are never labels unless they are named."""


def find_columns(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the columns that have one of these names; the one spelled as the first alone, where it is there."""
    if names[0] in columns:
        return [names[0]]
    return [column for column in columns if plain(column) in set(map(plain, names))]


def nearest(columns: Sequence[str], names: Sequence[str]) -> str:
    """Return the column whose name is nearest to one of these names; empty where none is near."""
    plains = {plain(column): column for column in columns}
    for name in names:
        for found in get_close_matches(plain(name), plains, n=1):
            return plains[found]
    return ""


@dataclass(frozen=True)
class Matches:
    """The candidates that a line means, by their indices; `is_ambiguous` if it cannot mean all of them."""

    indices: Sequence[int] = ()
    is_ambiguous: bool = False
    is_known: bool = True
    """Whether the source has what the line names, be it no image."""


class ByFile:
    """Candidates by the path of a file or folder, or by the name of a file."""

    def __init__(self, candidates: Sequence[Candidate], files: Sequence[str] = ()) -> None:
        self._places, self._names = _indexed(candidates, _places), _indexed(candidates, _names)
        self._known = frozenset(name for path in map(composed, files) for name in (path, *_file_names(path)))

    def __call__(self, text: str) -> Matches:
        """Return what a cell of the column `file` means."""
        file = composed(text.replace("\\", "/").removeprefix("./").rstrip("/"))
        if file in self._places:
            return Matches(self._places[file])
        found = self._names.get(file) or self._names.get(whole(file), ())
        return Matches(found, len(found) > 1, bool(found) or file in self._known)

    def is_alike(self, text: str) -> bool:
        """Whether a name would be found if letter case and leading zeros did not count."""
        return folded(text) in {folded(name) for name in self._names}


class ByIdentifier:
    """Candidates by an identifier of theirs; an identifier of several patients means none of them."""

    def __init__(self, candidates: Sequence[Candidate], by: LabelBy) -> None:
        self._candidates = candidates
        self._found: dict[str, list[int]] = defaultdict(list)
        for index, candidate in enumerate(candidates):
            for text in dict.fromkeys(map(composed, _identifiers(candidate, by))):
                if text:
                    self._found[text].append(index)

    def __call__(self, text: str) -> Matches:
        """Return what a cell means."""
        found = self._found.get(text) or self._found.get(whole(text), [])
        patients = {self._candidates[index].patient for index in found}
        return Matches(found, len(patients) > 1, bool(found))

    def is_alike(self, text: str) -> bool:
        """Whether an identifier would be found if letter case and leading zeros did not count."""
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
