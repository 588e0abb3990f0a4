"""Search of folders and files by format, so that a finding names its exact place.

A table is searched by column, a database by table and column, a DICOM file by element, a compressed file by its
contents, and everything else as text or bytes. If the name of a file, table or column is itself a finding, the report
does not repeat it, and gives the place without the name.
"""

from __future__ import annotations

import gzip
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medvit import readers
from medvit.audit.matcher import MIN_BYTES_IN_PIXELS, Matcher, Trace
from medvit.audit.needles import Needle, Needles
from medvit.deidentification.profile import NUMBERS
from medvit.dicom.file import begins_as_dicom
from medvit.dicom.header import load
from medvit.dicom.stream_comments import comments
from medvit.errors import MedvitError, NotAnImageError
from medvit.files.guard import decoding
from medvit.logs import LOG, STAMP
from medvit.readers.dicom_texts import elements, texts

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

MAX_TEXT = 2**28
"""Maximum bytes of a compressed file's content that are searched; the report states if the content is longer."""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks of UTF-16 text."""
LINES_AT_ONCE = 500
"""Number of lines of a text that are searched together. They are searched one by one only if this search finds
something.
"""
SQLITE_HEAD = b"SQLite format 3\0"
TABLES = "PaletteColorLookupTableData"
"""Common ending of the DICOM keywords of color tables. These elements are not searched, because their bytes may look
like words by chance.
"""
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?\s*")
_STAMP = re.compile(STAMP.pattern.encode(), re.MULTILINE)
"""Timestamp of a medvit log line. It is not searched: its date is that of a study if the study is ingested on the same
day.
"""
PIXEL_SUFFIXES = (".b2nd", ".safetensors", ".npz", ".npy")


@dataclass(frozen=True)
class Search:
    """Search of files and folders for the identifying values of a source (`needles`).

    `moves` maps the pseudonym of a patient to the number of days by which the de-identified copy shifted the dates of
    this patient.
    """

    needles: Needles
    moves: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def everywhere(self) -> Matcher:
        """Matcher of all needles (identifying values to search for)."""
        return Matcher(self.needles.by_text.values())

    @property
    def in_copies(self) -> Matcher:
        """Matcher of the needles (identifying values) that a de-identified copy must not contain.

        Dates are not among them, because a copy shifts dates; they are compared separately.
        """
        return Matcher(n for n in self.needles.by_text.values() if n.is_in_copy and not n.is_date)

    def folder(self, folder: Path, title: str) -> Iterator[Trace]:
        """Yield the findings in all files of a folder, or in one file; `title` names the place."""
        matcher = self.everywhere
        for place, file in _files(folder, title, matcher):
            yield from _named(file, folder, place, matcher)
            yield from search_file(file, place, matcher)

    def copy(self, folder: Path) -> Iterator[Trace]:
        """Yield the findings in a de-identified DICOM copy."""
        matcher = self.in_copies
        for place, file in _files(folder, "the DICOM copy", matcher):
            yield from _named(file, folder, place, matcher)
            yield from search_file(file, place, matcher)
            if file.suffix == ".dcm":
                yield from self._unmoved_dates(file, place)

    def text(self, place: str, text: str) -> Iterator[Trace]:
        """Yield the findings in a text."""
        yield from _traces(place, self.everywhere.in_text(text))

    def _unmoved_dates(self, file: Path, place: str) -> Iterator[Trace]:
        with decoding("the DICOM header"):
            dataset = load(file, stop_before_pixels=True)
            dates = list(_dates(dataset))
        patient = str(dataset.get("PatientID") or "")
        original = self.needles.dates.get(patient, frozenset())
        allowed = {_moved(day, self.moves[patient]) for day in original} if patient in self.moves else set()
        for name, value in dates:
            if value[:8] in original and value[:8] not in allowed:
                yield Trace(f"{place}, {name}", "a date of the same patient")


def by_pseudonym(needles: Needles, pseudonyms: dict[str, str]) -> Needles:
    """Return the needles (identifying values), with the dates of each patient keyed by the patient's pseudonym."""
    return replace(needles, dates={pseudonyms[patient]: days for patient, days in needles.dates.items()})


def search_file(file: Path, place: str, matcher: Matcher) -> Iterator[Trace]:
    """Yield the findings in one file, and an entry if the file could not be searched."""
    try:
        with decoding("the file"):
            yield from _search_file(file, place, matcher)
    except MedvitError as error:
        yield Trace(place, str(error), is_unsearched=True)


def _search_file(file: Path, place: str, matcher: Matcher) -> Iterator[Trace]:
    with file.open("rb") as stream:
        head = stream.read(4096)
    if file.suffix == ".parquet":
        yield from _parquet(file, place, matcher)
    elif head.startswith(SQLITE_HEAD):
        yield from _database(file, place, matcher)
    elif begins_as_dicom(head):
        yield from _dicom(file, place, matcher)
    elif zipfile.is_zipfile(file):
        yield from _zip(file, place, matcher)
    elif file.suffix in PIXEL_SUFFIXES:
        yield from _traces(place, matcher.in_bytes(file.read_bytes(), min_bytes=MIN_BYTES_IN_PIXELS))
    elif head.startswith(b"%PDF"):
        yield Trace(place, "the texts of a PDF are compressed", is_unsearched=True)
    else:
        content, is_whole = _unpacked(file, head)
        content = _STAMP.sub(b"", content) if file.name == LOG else content
        yield from _content(content, place, matcher)
        if not is_whole:
            yield Trace(place, f"only its first {MAX_TEXT} bytes were unpacked", is_unsearched=True)
        yield from _beside_pixels(file, place, matcher)


def _beside_pixels(file: Path, place: str, matcher: Matcher) -> Iterator[Trace]:
    """Yield the findings in texts of an image file that are compressed or encoded, such as texts in PNG or EXIF."""
    found: set[Needle] = set()
    try:
        for text in readers.texts(file):
            found |= matcher.in_text(text.text)
    except NotAnImageError:
        pass
    yield from _traces(f"{place}, beside its pixels", found)


def _files(folder: Path, title: str, matcher: Matcher) -> Iterator[tuple[str, Path]]:
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    for number, file in enumerate(files, start=1):
        name = file.name if folder.is_file() else file.relative_to(folder).as_posix()
        is_identifying = bool(matcher.in_text(name))
        yield f"{title}, " + (f"file {number} of {len(files)}" if is_identifying else name), file


def _named(file: Path, folder: Path, place: str, matcher: Matcher) -> Iterator[Trace]:
    name = file.name if folder.is_file() else file.relative_to(folder).as_posix()
    yield from _traces(f"{place}, its name", matcher.in_text(name))


def _traces(place: str, found: set[Needle]) -> Iterator[Trace]:
    yield from sorted({Trace(place, needle.description) for needle in found})


def _parquet(file: Path, place: str, matcher: Matcher) -> Iterator[Trace]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    schema = table.schema_arrow
    notes = "\n".join(f"{key!r} {value!r}" for key, value in (schema.metadata or {}).items())
    yield from _traces(f"{place}, its schema", matcher.in_text("\n".join([*schema.names, notes])))
    for column in schema.names:
        found: set[Needle] = set()
        for batch in table.iter_batches(columns=[column]):
            found |= matcher.in_text("\n".join(map(str, batch.column(0).to_pylist())))
        yield from _traces(f"{place}, column {column}", found)


def _database(file: Path, place: str, matcher: Matcher) -> Iterator[Trace]:
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    connection.text_factory = lambda content: content.decode("utf-8", "replace")
    rest = file.read_bytes()
    try:
        for table, sql in connection.execute("SELECT name, sql FROM sqlite_master").fetchall():
            rest = rest.replace((sql or "").encode(), b"")
            if sql and sql.upper().startswith("CREATE TABLE"):
                yield from _table(connection, table, f"{place}, table {table}", matcher)
    finally:
        connection.close()
    # Deleted rows remain in the file until it is vacuumed; the latest rows may be in the write-ahead log.
    yield from _traces(f"{place}, its bytes", matcher.in_bytes(rest, min_bytes=MIN_BYTES_IN_PIXELS))


def _table(connection: sqlite3.Connection, table: str, place: str, matcher: Matcher) -> Iterator[Trace]:
    cursor = connection.execute(f'SELECT * FROM "{table}"')
    columns = [column[0] for column in cursor.description]
    found: dict[str, set[Needle]] = {}
    for row in cursor:
        has_text = bool(matcher.in_text("\n".join(value for value in row if isinstance(value, str))))
        for column, value in zip(columns, row, strict=True):
            if isinstance(value, bytes) or (isinstance(value, str) and has_text):
                found.setdefault(column, set()).update(_in(value, matcher))
    for column, needles in found.items():
        yield from _traces(f"{place}, column {column}", needles)


def _in(value: str | bytes, matcher: Matcher) -> set[Needle]:
    return matcher.in_text(value) if isinstance(value, str) else matcher.in_bytes(value)


def _dicom(file: Path, place: str, matcher: Matcher) -> Iterator[Trace]:
    found: set[Needle] = set()
    try:
        with decoding("the DICOM file"):
            dataset = load(file)
            for name, text, is_number in _texts([dataset.file_meta, dataset]):
                # The number of a folder or a protocol occurs by chance in many elements of numbers or times of day.
                there = {needle for needle in matcher.in_text(text) if not (is_number and needle.is_weak)}
                found |= there
                yield from _traces(f"{place}, {name}", there)
            for comment in comments(dataset):
                there = matcher.in_text("\n".join(texts(comment)))
                found |= there
                yield from _traces(f"{place}, a comment in its pixels", there)
    except MedvitError as error:
        yield Trace(place, str(error), is_unsearched=True)
    rest = matcher.in_bytes(file.read_bytes(), min_bytes=MIN_BYTES_IN_PIXELS) - found
    yield from _traces(f"{place}, its bytes", rest)


def _texts(datasets: list[Dataset]) -> Iterator[tuple[str, str, bool]]:
    for dataset in datasets:
        for element in elements(dataset):
            if str(element.VR) == "SQ":
                yield from _texts(list(element.value or ()))
            elif element.keyword != "PixelData" and not element.keyword.endswith(TABLES) and not _is_time(element):
                yield (
                    f"{element.tag} {element.keyword or 'private'}",
                    "\n".join(texts(element.value)),
                    str(element.VR) in (*NUMBERS, "TM"),
                )


def _is_time(element: DataElement) -> bool:
    """Return whether an element contains only times of day.

    These are not searched: de-identified copies keep them, and their digits often occur in study numbers.
    """
    return str(element.VR) == "TM" and all(_TIME.fullmatch(text) for text in texts(element.value))


def _dates(dataset: Dataset) -> Iterator[tuple[str, str]]:
    for element in elements(dataset):
        if str(element.VR) == "SQ":
            for item in element.value or ():
                yield from _dates(item)
        elif str(element.VR) in ("DA", "DT"):
            yield from ((f"{element.tag} {element.keyword}", text) for text in texts(element.value) if text)


def _moved(day: str, days: int) -> str:
    from medvit.deidentification.dates import shifted

    return shifted(day, "DA", days)


def _zip(file: Path, place: str, matcher: Matcher) -> Iterator[Trace]:
    with zipfile.ZipFile(file) as archive:
        for number, entry in enumerate(archive.infolist(), start=1):
            inner = f"{place}, entry {number}"
            yield from _traces(f"{inner}, its name", matcher.in_text(entry.filename))
            if entry.flag_bits & 1:
                yield Trace(inner, "it is encrypted", is_unsearched=True)
                continue
            with archive.open(entry) as stream:
                yield from _content(stream.read(MAX_TEXT), inner, matcher)
            if entry.file_size > MAX_TEXT:
                yield Trace(inner, f"only its first {MAX_TEXT} bytes were unpacked", is_unsearched=True)


def _unpacked(file: Path, head: bytes) -> tuple[bytes, bool]:
    """Return the content of a file, decompressed if it is gzip, and whether all of it is returned.

    The second result is False if the gzip file is damaged or its content exceeds `MAX_TEXT` bytes.
    """
    if not head.startswith(b"\x1f\x8b"):
        return file.read_bytes(), True
    try:
        with gzip.open(file) as stream:
            return stream.read(MAX_TEXT), not stream.read(1)
    except (OSError, EOFError, zlib.error):
        return file.read_bytes(), False


def _content(content: bytes, place: str, matcher: Matcher) -> Iterator[Trace]:
    if content.startswith(UTF_16):
        content = content.decode("utf-16", "replace").encode("utf-8", "replace")
    if b"\0" in content[:8192]:
        yield from _traces(place, matcher.in_bytes(content, min_bytes=MIN_BYTES_IN_PIXELS))
        return
    found: dict[Needle, int] = {}
    lines = content.decode("utf-8", "replace").split("\n")
    for begin in range(0, len(lines), LINES_AT_ONCE):
        part = lines[begin : begin + LINES_AT_ONCE]
        if not matcher.in_text("\n".join(part)):
            continue
        for number, line in enumerate(part, start=begin + 1):
            for needle in matcher.in_text(line):
                found.setdefault(needle, number)
    yield from sorted({Trace(f"{place}, line {number}", needle.description) for needle, number in found.items()})
