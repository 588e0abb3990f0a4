"""Texts of documents next to the images of a source: tables, JSON, and plain texts such as reports.

Every cell of a table is read, under any column name, because exports name people and diseases in any
language. Columns whose names suggest people yield identifiers; other columns yield texts that may occur elsewhere by
chance.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from medvit.deidentification.identifiers import KEPT, STRICT, IdentifyingValue, identifying, is_personal
from medvit.deidentification.profile import CLEANED
from medvit.errors import NotAnImageError, UnsupportedError
from medvit.files.guard import decoding
from medvit.readers.picture_texts import day, name, note, xml_texts
from medvit.records import FileText

CELL = "a cell of a table"
TABLES, WORKBOOKS = (".csv", ".tsv", ".tab"), (".xlsx", ".xlsm")
DELIMITERS = ",;\t|"
PUBLISHED = re.compile(r"(?i)(readme|licen[cs]e|copying|citation|changes|changelog|notice|authors)(\..*)?")
"""Names of files that a publisher adds to data, such as a readme or a license. They are skipped: they describe no
patient.
"""
OF_SYSTEMS = re.compile(r"\.DS_Store|\._.*|desktop\.ini")
"""Files that operating systems write into folders. They are skipped: they contain at most file names, which are
searched for anyway.
"""
MAX_BYTES = 2**24
"""Maximum bytes of a text document. A part of a workbook may have 16 times as many; tables in CSV have no limit."""
_DATE = re.compile(r"(?:(\d{4})[-./]?(\d{2})[-./]?(\d{2})|(\d{1,2})[-./](\d{1,2})[-./](\d{4}))(?:[ T].*)?")
_DATE_COLUMN = re.compile(r"(?i).*(date|dat(um|a)|fecha|birth|born|dob|geb|naiss|nasc|nacim|day|tag).*")
EXCEL_BEGIN, EXCEL_DAYS = date(1899, 12, 30), range(1, 100_000)
"""Day 0 of dates in workbooks, and the range of numbers that may be a date."""
_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def document_values(file: Path) -> Iterator[IdentifyingValue]:
    """Yield the values in a document that may identify a patient.

    Raises:
        NotAnImageError: If the file is not a document of a supported format.
        DataError: If the document cannot be read completely. The values that could be read are yielded first.
    """
    if OF_SYSTEMS.fullmatch(file.name) or PUBLISHED.fullmatch(file.name):
        return
    with decoding("the document"):
        yield from _values(file)


def _values(file: Path) -> Iterator[IdentifyingValue]:
    suffix = file.suffix.lower()
    if suffix in WORKBOOKS:
        for sheet in _sheets(file):
            yield from _cells(sheet)
        return
    if file.stat().st_size > MAX_BYTES and suffix not in TABLES:
        raise UnsupportedError(f"a document of more than {MAX_BYTES} bytes, which is not searched; split it")
    if suffix in TABLES:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            header = stream.readline()
            stream.seek(0)
            yield from _cells(csv.reader(stream, delimiter=max(DELIMITERS, key=header.count)))
        return
    content = file.read_bytes()
    text = _decoded(content)
    if text is None:
        raise NotAnImageError("the name and the first bytes of the file are not of a supported document format")
    if suffix == ".json":
        yield from _fields(json.loads(text), "")
    elif text.lstrip().startswith("<"):
        yield from filter(None, map(identifying, xml_texts(text)))
    else:
        yield from filter(None, (identifying(note(line, "a line of a text")) for line in text.splitlines()))


def _decoded(content: bytes) -> str | None:
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    if content.startswith(b"%PDF") or re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", content):
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _cells(lines: Iterator[Sequence[str]]) -> Iterator[IdentifyingValue]:
    columns: Sequence[str] = [column.strip() for column in next(lines, ())]
    for line in lines:
        for number, cell in enumerate(line):
            column = columns[number] if number < len(columns) else ""
            yield from filter(None, map(identifying, _cell(cell.strip(), column)))


def _cell(cell: str, column: str) -> Iterator[FileText]:
    match = _DATE.fullmatch(cell)
    if match is not None:
        yield from (day(text, CELL) for text in _days(match))
    elif re.fullmatch(r"\d{1,5}(\.\d*)?", cell) and _DATE_COLUMN.fullmatch(column) and int(float(cell)) in EXCEL_DAYS:
        yield day(f"{EXCEL_BEGIN + timedelta(int(float(cell))):%Y%m%d}", CELL)
    elif is_personal(column):
        yield name(cell, CELL)
    else:
        yield note(cell, CELL)


def _days(match: re.Match[str]) -> Iterator[str]:
    """Yield a matched date as YYYYMMDD; if day and month may be in either order, yield both dates."""
    if match[1]:
        yield f"{match[1]}{match[2]}{match[3]}"
        return
    one, other, year = f"{match[4]:>02}", f"{match[5]:>02}", match[6]
    yield f"{year}{other}{one}"
    if one != other:
        yield f"{year}{one}{other}"


def _sheets(file: Path) -> Iterator[Iterator[Sequence[str]]]:
    """Yield the sheets of a workbook (ECMA-376, 18.3) as rows of cells, and then its comments."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.file_size > 16 * MAX_BYTES for entry in entries.values()):
            raise UnsupportedError(
                f"a workbook with a part of more than {16 * MAX_BYTES} bytes, which is not searched; split it"
            )
        shared: list[str] = []
        if "xl/sharedStrings.xml" in entries:
            strings = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
            shared = ["".join(text.text or "" for text in one.iter(f"{_SHEET}t")) for one in strings]
        for path in entries:
            if re.fullmatch(r"xl/worksheets/[^/]+\.xml", path):
                yield _rows(ElementTree.fromstring(archive.read(path)), shared)
        for path in entries:
            if re.fullmatch(r"xl/(comments|threadedComments/)[^/]*\.xml", path):
                yield iter([(), *((text,) for text in ElementTree.fromstring(archive.read(path)).itertext())])


def _rows(sheet: ElementTree.Element, shared: Sequence[str]) -> Iterator[Sequence[str]]:
    for row in sheet.iter(f"{_SHEET}row"):
        cells: dict[int, str] = {}
        for number, cell in enumerate(row.iter(f"{_SHEET}c")):
            text = "".join(part.text or "" for part in cell.iter() if part.tag in (f"{_SHEET}v", f"{_SHEET}t"))
            if cell.get("t") == "s" and text.isdigit() and int(text) < len(shared):
                text = shared[int(text)]
            cells[_column(cell.get("r", ""), number)] = text
        yield [cells.get(number, "") for number in range(max(cells, default=-1) + 1)]


def _column(place: str, number: int) -> int:
    letters = re.match(r"[A-Z]{1,3}", place)
    if letters is None:
        return number
    found = 0
    for letter in letters[0]:
        found = 26 * found + ord(letter) - ord("A") + 1
    return found - 1


def _fields(value: Any, key: str) -> Iterator[IdentifyingValue]:
    """Yield the identifying values of a JSON document, or of the value of one `key` in it.

    If the key is a DICOM keyword, as in files written by converters, the strictest de-identification profile decides
    whether the value identifies a patient. Otherwise, the name of the key decides.
    """
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    if isinstance(value, Mapping):
        for name_, inner in value.items():
            yield from _fields(inner, name_)
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner, key)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        tag, place = tag_for_keyword(key), f"JSON {key}"
        vr = dictionary_VR(tag) if tag is not None else ""
        if vr in ("DA", "DT"):
            yield from filter(None, [identifying(day(str(value), place))])
        elif tag is None and is_personal(key):
            yield from filter(None, [identifying(note(str(value), place))])
        elif tag is not None and vr != "TM" and STRICT.action(tag, vr) not in KEPT:
            yield IdentifyingValue(str(value).strip(), place, vr, is_descriptor=key in CLEANED["descriptors"])
