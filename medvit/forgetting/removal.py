"""Removal of the data of a patient from files; each file is replaced atomically."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq

from medvit.files.atomic import replacing, write_bytes, write_text
from medvit.forgetting.search import DATABASE, Found, is_named, read_json, read_lines, rows_of, without_entries
from medvit.lineage.patients import PatientNames


def remove_all(found: Iterable[Found], names: PatientNames) -> None:
    """Remove what was found: files and folders first, rows of manifests last.

    After an interruption, the rows that remain lead the next run to everything that is left.
    """
    for one in sorted(found, key=_order):
        remove(one, names)


def remove(found: Found, names: PatientNames) -> None:
    """Remove the data of a patient from one file, or the file or folder; a file that is gone is skipped."""
    needles, path = names.all | names.addresses, found.path
    if not path.exists():
        return
    if found.action == "delete" and path.is_dir():
        shutil.rmtree(path)
    elif found.action == "delete":
        path.unlink()
    elif found.action == "lines":
        mode = path.stat().st_mode & 0o777
        kept = "".join(line for line in read_lines(path) if not is_named(line, needles))
        write_bytes(path, kept.encode("utf-8", "surrogateescape"))
        path.chmod(mode)
    elif found.action == "entries":
        write_text(path, json.dumps(without_entries(read_json(path), needles), indent=2) + "\n")
    elif path.suffix == DATABASE:
        _delete_studies(path, needles)
    else:
        _delete_rows(path, needles)


def _order(found: Found) -> tuple[bool, bool, str]:
    is_table = found.action == "rows"
    return is_table, found.path.name == "manifest.parquet", str(found.path)


def _delete_rows(path: Path, needles: frozenset[str]) -> None:
    table = pq.read_table(path)
    kept = table.filter([not one for one in rows_of(path, needles)])
    with replacing(path) as partial:
        pq.write_table(kept, partial, compression="zstd")


def _delete_studies(path: Path, needles: frozenset[str]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany("DELETE FROM studies WHERE name = ?", [(name,) for name in sorted(needles)])
        connection.commit()
        connection.execute("VACUUM")  # deleted rows remain in the file until then
