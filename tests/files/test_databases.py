"""Errors of SQLite name the database and what to check; other errors pass."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from medvit.errors import OutputError
from medvit.files.databases import explained


def test_an_error_of_sqlite_names_the_database_and_what_to_check(tmp_path: Path) -> None:
    path = tmp_path / "list.sqlite"
    path.write_bytes(b"no database" * 100)
    expected = r"the list cannot be used \(file is not a database\); check the free space .* its folder; or another one"
    with pytest.raises(OutputError, match=expected), explained("the list", "; or another one"):
        sqlite3.connect(path).execute("SELECT * FROM studies")


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), explained("the list"):
        raise KeyError("study")
