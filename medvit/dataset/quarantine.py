"""Quarantine of an ingest: `quarantine.parquet`, next to the manifest, lists refused files with reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from medvit.files.atomic import replacing

FILE_NAME = "quarantine.parquet"

_SCHEMA = pa.schema([("where", pa.string()), ("code", pa.string()), ("reason", pa.string()), ("num_files", pa.int64())])


@dataclass(frozen=True, order=True)
class Quarantined:
    """Entry of the quarantine: files that were refused together.

    `where` is the pseudonym of the first file, `code` is a code of `medvit.errors` or `leakage`, and `reason` is one
    sentence that names neither a patient nor a path.
    """

    where: str
    code: str
    reason: str
    num_files: int

    def __str__(self) -> str:
        return f"{self.where} ({self.num_files} file{'' if self.num_files == 1 else 's'}): {self.code}: {self.reason}"


def write(quarantine: Sequence[Quarantined], folder: Path) -> None:
    """Write the quarantine list into a dataset folder, sorted, atomically."""
    table = pa.Table.from_pylist([asdict(entry) for entry in sorted(quarantine)], schema=_SCHEMA)
    with replacing(folder / FILE_NAME) as partial:
        pq.write_table(table, partial, compression="zstd")


def read(folder: Path) -> tuple[Quarantined, ...]:
    """Read the quarantine list of a dataset folder."""
    return tuple(Quarantined(**line) for line in pq.read_table(folder / FILE_NAME).to_pylist())
