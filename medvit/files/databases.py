"""Errors of SQLite databases in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from medvit.errors import OutputError


@contextmanager
def explained(database: str, advice: str = "") -> Iterator[None]:
    """Return a context in which an error of SQLite is raised as an `OutputError` that names the `database`.

    The error advises to check the folder of the database; `advice` is added to it.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise OutputError(
            f"{database} cannot be used ({error}); check the free space and the permissions of its folder{advice}"
        ) from None
