"""The way back from pseudonyms to files and patients, kept beside the site's key and nowhere else."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from medvit.errors import OutputError
from medvit.files.private import write_private

COLUMNS = ("pseudonym", "original")


def write(key_file: Path, dataset: str, pairs: Iterable[tuple[str, str]]) -> Path:
    """Adds (pseudonym, original) pairs to `KEY.crosswalk/DATASET.csv`, a file of mode 0600; its path.

    Raises:
        OutputError: If it cannot be written.
    """
    key_file = key_file.expanduser()
    path = key_file.with_name(f"{key_file.name}.crosswalk") / f"{dataset}.csv"
    try:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([COLUMNS, *sorted({*_read(path), *pairs})])
        write_private(path, [text.getvalue().encode("utf-8", "surrogateescape")])
    except OSError as error:
        raise OutputError(f"the crosswalk {path} cannot be written: {error.strerror}; give another key=...") from None
    return path


def _read(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [(line[0], line[1]) for line in list(csv.reader(file))[1:]]
