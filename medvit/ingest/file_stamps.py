"""State of a file, by which a change is seen: size, time of change and a digest of its beginning.

A dataset keeps `sources.parquet`, a keyed hash of each of its source files under its pseudonym, so that a later ingest
of the same source can see what was added, changed or removed. Nothing in it names a file or a patient.
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
"""Of a file's beginning in its digest: the identifiers of a DICOM instance are there."""
BATCH = 64
"""Files a worker is given at once."""

_SCHEMA = pa.schema([("file", pa.string()), ("state", pa.string())])


class Stamp(NamedTuple):
    """Size in bytes, time of change in ns, and the digest of the first `HEAD_BYTES`; zeros if it cannot be read."""

    size: int
    time_ns: int
    head: str


UNKNOWN = Stamp(0, 0, "")
"""Of a file that cannot be read."""


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file as it is now."""
    try:
        return stamp_of(read_head(path))
    except OSError:
        return UNKNOWN  # reading it will say why


def stamp_of(beginning: FileHead) -> Stamp:
    """Return the stamp of a file that begins so."""
    return Stamp(beginning.size, beginning.time_ns, hashlib.sha256(beginning.content[:HEAD_BYTES]).hexdigest()[:32])


def stamps(files: Sequence[Path], engine: EngineConfig) -> dict[Path, Stamp]:
    """Return the stamps of files, taken by the workers of an engine."""
    batches = list(batched(files))
    outcomes = map_items(_stamp_each, batches, config=engine, title="stamp", weights=lengths(batches), unit="file")
    found = chain.from_iterable(one.result or [UNKNOWN] * len(one.item) for one in outcomes)
    return dict(zip(files, found, strict=True))


def batched(files: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Files in the portions that a worker is given at once."""
    return (tuple(files[start : start + BATCH]) for start in range(0, len(files), BATCH))


def lengths(batches: Sequence[Sequence[Path]]) -> list[int]:
    """How many files each portion holds."""
    return [len(batch) for batch in batches]


READING_ROOMS = ("dicom", "series", "wsi", "readers")
"""Rooms that decide what is read of a file."""
TAKING_ROOMS = (*READING_ROOMS, "dataset", "leakage", "deidentification", "ingest")
"""Rooms that decide what is stored and noted of an image: its pixels, flags, hashes, writing in the pixels."""
CARD_ROOMS = ("dataset", "leakage", "cards")
"""Rooms that decide what a data card says and shows."""


@cache
def version_of(rooms: tuple[str, ...]) -> str:
    """Return the versions that rooms of medvit declare, as `readers 1, ingest 1`.

    Results of an earlier ingest are reused only if these are still the same. A room raises its `VERSION` when its
    results change, not when its text does (tests/test_versions.py holds it to that).
    """
    return ", ".join(f"{room} {importlib.import_module(f'medvit.{room}').VERSION}" for room in rooms)


@dataclass(frozen=True)
class Changes:
    """How the files of a source differ from those that an earlier dataset was made of, in numbers."""

    added: int
    changed: int
    removed: int
    unchanged: int

    def __str__(self) -> str:
        return f"{self.added} added, {self.changed} changed, {self.removed} removed, {self.unchanged} unchanged"


def compare(before: Mapping[str, str], now: Mapping[str, str]) -> Changes:
    """Return the difference of two mappings from the pseudonym of a file to its state."""
    common = before.keys() & now.keys()
    num_changed = sum(before[file] != now[file] for file in common)
    return Changes(len(now.keys() - common), num_changed, len(before.keys() - common), len(common) - num_changed)


def write(states: Mapping[str, str], card: str, folder: Path) -> None:
    """Write the state of each file, by its pseudonym, and that of what the card tells, whole or not at all."""
    files = sorted(states)
    columns = [pa.array(files, pa.string()), pa.array([states[file] for file in files], pa.string())]
    table = pa.table(columns, schema=_SCHEMA.with_metadata({CARD: card}))
    with replacing(folder / FILE_NAME) as partial:
        pq.write_table(table, partial, compression="zstd")


def read(folder: Path) -> dict[str, str]:
    """Return the states that `write` wrote; none where a dataset has none, as one of an earlier version."""
    path = folder / FILE_NAME
    if not path.is_file():
        return {}
    table = pq.read_table(path, schema=_SCHEMA)
    return dict(zip(table["file"].to_pylist(), table["state"].to_pylist(), strict=True))


def read_card(folder: Path) -> str:
    """Return the state of what the card of a dataset tells; empty where none is known."""
    path = folder / FILE_NAME
    metadata = (pq.read_schema(path).metadata or {}) if path.is_file() else {}
    return metadata.get(CARD.encode(), b"").decode()


StateOf = Callable[..., str]
"""A keyed hash of facts about files, as `Pseudonyms.state`."""


def _stamp_each(files: tuple[Path, ...]) -> tuple[Stamp, ...]:
    return tuple(map(stamp, files))
