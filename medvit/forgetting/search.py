"""Search of files for the data of a patient: rows, lines, stored pixels, and files and folders named by pseudonyms."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from medvit.artifacts import LINEAGE, PATIENTS
from medvit.errors import DataError
from medvit.lineage.deletions import FILE_NAME as DELETIONS
from medvit.lineage.patients import PatientNames

RemovalKind = Literal["rows", "lines", "entries", "delete"]
TOKEN = re.compile(r"[a-z]-[0-9a-f]{8,}|[0-9a-f]{64}")
"""Pseudonyms, and addresses of stored pixels."""
TABLES, LINES, PAGES = (".csv", ".jsonl"), (".log", ".txt"), (".html", ".md", ".pdf", ".svg")
KEPT = (PATIENTS, LINEAGE, DELETIONS)
"""Files that contain digests only."""
WEIGHTS = (".safetensors", ".onnx", ".b2nd")
DATABASE = ".sqlite"


@dataclass(frozen=True)
class Found:
    """File or folder that contains data of a patient, and how they are removed.

    rows: the rows of a table are removed. lines: the lines of a text. entries: the entries of a JSON file. delete: the
    file or folder. `number` counts rows, lines or entries, and is 1 for a file or folder.
    """

    path: Path
    action: RemovalKind
    number: int

    def __str__(self) -> str:
        if self.action == "delete":
            return f"{self.path}: the whole {'folder' if self.path.is_dir() else 'file'}"
        one = {"rows": "row", "lines": "line", "entries": "entry"}[self.action]
        return f"{self.path}: {self.number} {one if self.number == 1 else self.action}"


def search(folder: Path, names: PatientNames) -> Iterator[Found]:
    """Yield everything in a folder that contains data of a patient.

    Tables and texts are searched for pseudonyms and for addresses of pixels; stored pixels are found by their address,
    other files and folders by their name.
    """
    needles = names.all | names.addresses
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name in KEPT:
            continue
        if needles & {path.name, path.name.partition(".")[0], *TOKEN.findall(path.name)}:
            yield Found(path, "delete", 1)
        elif path.is_dir():
            yield from search(path, names)
        else:
            found = _in_file(path, needles)
            if found is not None and found.number:
                yield found


def _in_file(path: Path, needles: frozenset[str]) -> Found | None:
    kind = path.suffix.lower()
    if kind == ".parquet":
        return Found(path, "rows", sum(rows_of(path, needles)))
    if kind == DATABASE:
        return Found(path, "rows", _num_rows_of_database(path, needles))
    if kind in (*TABLES, *LINES):
        return Found(path, "lines", sum(is_named(line, needles) for line in read_lines(path)))
    if kind == ".json":
        return Found(path, "entries", count_entries(read_json(path), needles))
    if kind in PAGES:
        text = path.read_bytes().decode("utf-8", "replace")
        return Found(path, "delete", int(is_named(text, needles)))
    return None


def rows_of(path: Path, needles: frozenset[str]) -> list[bool]:
    """Return, for each row of a table, whether one of its texts is a needle.

    Raises:
        DataError: If the table is damaged.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):
        raise DataError(f"{path} is damaged and cannot be searched; restore or delete it") from None
    texts = [name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)]
    columns = [table[name].to_pylist() for name in texts]
    return [any(value in needles for value in row) for row in zip(*columns, strict=True)] if columns else []


def is_named(text: str, needles: frozenset[str]) -> bool:
    """Return whether a text contains a needle as a whole word."""
    return not needles.isdisjoint(TOKEN.findall(text))


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text with their ends; bytes that are not UTF-8 are preserved."""
    return path.read_bytes().decode("utf-8", "surrogateescape").splitlines(keepends=True)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: If the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"{path} is damaged and cannot be searched; restore or delete it") from None


def count_entries(tree: Any, needles: frozenset[str]) -> int:
    """Return the number of entries of a tree that `without_entries` removes."""
    if isinstance(tree, dict):
        return sum(
            key in needles or _is_entry(value, needles) or count_entries(value, needles) for key, value in tree.items()
        )
    if isinstance(tree, list):
        return sum(1 if _is_entry(value, needles) else count_entries(value, needles) for value in tree)
    return 0


def without_entries(tree: Any, needles: frozenset[str]) -> Any:
    """Return a tree without the entries that name a patient: texts, keys, and objects with a text that is a needle."""
    if isinstance(tree, dict):
        kept = {key: value for key, value in tree.items() if key not in needles and not _is_entry(value, needles)}
        return {key: without_entries(value, needles) for key, value in kept.items()}
    if isinstance(tree, list):
        return [without_entries(value, needles) for value in tree if not _is_entry(value, needles)]
    return tree


def _is_entry(value: Any, needles: frozenset[str]) -> bool:
    """Return whether a value is a text that names the patient, or an object with such a text of its own."""
    if isinstance(value, str):
        return is_named(value, needles)
    return isinstance(value, dict) and any(isinstance(own, str) and is_named(own, needles) for own in value.values())


def studies_table(connection: sqlite3.Connection) -> bool:
    """Return whether a database is the list of studies of a batch."""
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'studies'").fetchone()
    return found is not None


def _num_rows_of_database(path: Path, needles: frozenset[str]) -> int:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        if not studies_table(connection):
            return 0
        return sum(name in needles for (name,) in connection.execute("SELECT name FROM studies"))
