"""State of a file, for detecting changes: size, modification time, and a digest of its beginning.

The table `sources.parquet` of a dataset contains, for each source file, the pseudonym of the file and a keyed hash of
its state. With it, a later ingest of the same source detects added, changed and removed files. The table does not
contain names of files or patients.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from medvit.engine import EngineConfig, map_items
from medvit.files.atomic import replacing
from medvit.files.head import FileHead, read_head

FILE_NAME, CARD = "sources.parquet", "medvit_card"
HEAD_BYTES = 4096
"""Number of bytes at the beginning of a file that its digest covers; they contain the identifiers of a DICOM
instance.
"""
BATCH = 64
"""Files per worker task."""

_SCHEMA = pa.schema([("file", pa.string()), ("state", pa.string())])


class Stamp(NamedTuple):
    """Size in bytes, modification time in ns, and digest of the first `HEAD_BYTES` of a file; zeros if unreadable."""

    size: int
    time_ns: int
    head: str


UNKNOWN = Stamp(0, 0, "")
"""Stamp of a file that cannot be read."""


def stamp(path: Path) -> Stamp:
    """Return the present stamp of a file."""
    try:
        return stamp_of(read_head(path))
    except OSError:
        return UNKNOWN  # reading it will report why


def stamp_of(beginning: FileHead) -> Stamp:
    """Return the stamp of a file that begins with these bytes."""
    return Stamp(beginning.size, beginning.time_ns, hashlib.sha256(beginning.content[:HEAD_BYTES]).hexdigest()[:32])


def stamps(files: Sequence[Path], engine: EngineConfig) -> dict[Path, Stamp]:
    """Return the stamps of files, which the workers of `engine` read."""
    batches = list(batched(files))
    outcomes = map_items(_stamp_each, batches, config=engine, title="stamp", weights=lengths(batches), unit="file")
    found = chain.from_iterable(one.result or [UNKNOWN] * len(one.item) for one in outcomes)
    return dict(zip(files, found, strict=True))


def batched(files: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Yield the files in batches, one per worker task."""
    return (tuple(files[start : start + BATCH]) for start in range(0, len(files), BATCH))


def lengths(batches: Sequence[Sequence[Path]]) -> list[int]:
    """Return the number of files in each batch."""
    return [len(batch) for batch in batches]


READING_ROOMS = ("dicom", "series", "wsi", "readers")
"""Packages of medvit whose code determines how a file is read."""
TAKING_ROOMS = (*READING_ROOMS, "dataset", "leakage", "deidentification", "ingest")
"""Packages of medvit whose code determines the stored data of an image: pixels, flags, hashes, burned-in text."""
CARD_ROOMS = ("dataset", "leakage", "cards")
"""Packages of medvit whose code determines the content of a data card."""


@cache
def version_of(rooms: tuple[str, ...]) -> str:
    """Return the `VERSION` of each of several packages of medvit, such as `readers 1, ingest 1`.

    Results of an earlier ingest are reused only if these versions are unchanged. The `VERSION` of a package is raised
    when its results change, not for every change of its code (tests/test_versions.py enforces this).
    """
    return ", ".join(f"{room} {importlib.import_module(f'medvit.{room}').VERSION}" for room in rooms)


@dataclass(frozen=True)
class Changes:
    """Number of files of a source that were added, changed or removed since an earlier dataset was made."""

    added: int
    changed: int
    removed: int
    unchanged: int

    def __str__(self) -> str:
        return f"{self.added} added, {self.changed} changed, {self.removed} removed, {self.unchanged} unchanged"


def compare(before: Mapping[str, str], now: Mapping[str, str]) -> Changes:
    """Return the differences between two mappings from file pseudonyms to file states."""
    common = before.keys() & now.keys()
    num_changed = sum(before[file] != now[file] for file in common)
    return Changes(len(now.keys() - common), num_changed, len(before.keys() - common), len(common) - num_changed)


def write(states: Mapping[str, str], card: str, folder: Path) -> None:
    """Write the state of each file under its pseudonym, and the state of the card, atomically."""
    files = sorted(states)
    columns = [pa.array(files, pa.string()), pa.array([states[file] for file in files], pa.string())]
    table = pa.table(columns, schema=_SCHEMA.with_metadata({CARD: card}))
    with replacing(folder / FILE_NAME) as partial:
        pq.write_table(table, partial, compression="zstd")


def read(folder: Path) -> dict[str, str]:
    """Return the states that `write` stored; empty for a dataset of an earlier version, which has no states."""
    path = folder / FILE_NAME
    if not path.is_file():
        return {}
    table = pq.read_table(path, schema=_SCHEMA)
    return dict(zip(table["file"].to_pylist(), table["state"].to_pylist(), strict=True))


def read_card(folder: Path) -> str:
    """Return the state of the card of a dataset; empty if unknown."""
    path = folder / FILE_NAME
    metadata = (pq.read_schema(path).metadata or {}) if path.is_file() else {}
    return metadata.get(CARD.encode(), b"").decode()


StateOf = Callable[..., str]
"""Type of a function that returns a keyed hash of facts about a file, as `Pseudonyms.state` does."""


def _stamp_each(files: tuple[Path, ...]) -> tuple[Stamp, ...]:
    return tuple(map(stamp, files))
