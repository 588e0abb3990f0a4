"""Crosswalk from pseudonyms to files and patients, stored only next to the site's key."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from medvit.errors import ConfigError, OutputError
from medvit.files.lock import LockedError, wait_for
from medvit.files.private import OWNER_FOLDER, write_private

COLUMNS = ("pseudonym", "original")
LOCK_S = 60.0
"""Seconds to wait for other processes that write to the same crosswalk."""


def write(key_file: Path, dataset: str, pairs: Iterable[tuple[str, str]]) -> Path:
    """Add (pseudonym, original) pairs to the file `KEY.crosswalk/DATASET.csv`, with mode 0600; return its path.

    Raises:
        OutputError: If the crosswalk cannot be written.
    """
    path = place(key_file, dataset)
    try:
        path.parent.mkdir(mode=OWNER_FOLDER, parents=True, exist_ok=True)
        lock = wait_for(path.with_name(f".{path.name}.lock"), "medvit", timeout_s=LOCK_S)
        try:
            text = io.StringIO(newline="")
            csv.writer(text).writerows([COLUMNS, *sorted({*_read(path), *pairs})])
            write_private(path, [text.getvalue().encode("utf-8", "surrogateescape")])
        finally:
            lock.release(path.with_name(f".{path.name}.lock"))
    except LockedError as error:
        raise OutputError(f"{error} has been writing the crosswalk {path} for {LOCK_S:g} s; end it, or wait") from None
    except OSError as error:
        raise OutputError(f"the crosswalk {path} cannot be written: {error.strerror}; give another key=...") from None
    return path


def place(key_file: Path, dataset: str) -> Path:
    """Return the path of the crosswalk of a dataset, or of a batch of predictions."""
    return folder_of(key_file) / f"{dataset}.csv"


def find(key_file: Path, pseudonym: str) -> list[tuple[str, str]]:
    """Return (dataset or batch, original) pairs for a pseudonym, from all crosswalks next to a key, sorted.

    Raises:
        ConfigError: If the key or a crosswalk cannot be read.
    """
    try:
        with key_file.expanduser().open("rb"):
            paths = sorted(folder_of(key_file).glob("*.csv"))
        return [(path.stem, original) for path in paths for name, original in _read(path) if name == pseudonym]
    except OSError as error:
        raise ConfigError(f"the key file {key_file} or its crosswalk cannot be read: {error.strerror}") from None


def folder_of(key_file: Path) -> Path:
    """Return the folder with the crosswalks of a key."""
    key_file = key_file.expanduser()
    return key_file.with_name(f"{key_file.name}.crosswalk")


def _read(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [(line[0], line[1]) for line in list(csv.reader(file))[1:]]
