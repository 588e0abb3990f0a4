"""Manifest of a dataset: `manifest.parquet`, one row per image, volume or slide."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medvit.artifacts import CONFIG
from medvit.dataset import quarantine
from medvit.dataset.made_with import MadeWith
from medvit.dataset.quarantine import Quarantined
from medvit.dataset.store import Store
from medvit.errors import DataError
from medvit.files.atomic import replacing
from medvit.patients import PatientCount
from medvit.records import Flag, Row, Split, splits_of
from medvit.summary import Summary, counted, labeled

SCHEMA_VERSION = 4
READABLE_VERSIONS = (1, 2, 3, 4)
"""Schema versions that can be read. Version 1 lacks the columns part, flags, perceptual_hash, file_sha256 and
attributes. Versions 1 and 2 lack padding, num_not_finite and patient_is_assumed. Versions 1 to 3 lack annotated.
"""
FILE_NAME = "manifest.parquet"
FILES = {"card.html": "data card", quarantine.FILE_NAME: "what was refused", FILE_NAME: "a row for each image"}
"""Files of a dataset to open first."""
SHOWN_CLASSES = 8
"""Maximum number of classes of a label that a summary names."""
ROWS_A_GROUP = 10_000
"""Number of rows that are written and read at once. They need about 30 MiB of memory."""

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("image_id", "patient_id", "study_id", "series_id")),
        *((name, pa.string()) for name in ("modality", "kind", "dataset", "split")),
        ("shape", pa.list_(pa.int64())),
        ("dtype", pa.string()),
        ("sha256", pa.string()),
        ("labels", pa.map_(pa.string(), pa.string())),
        ("mask", pa.string()),
        ("spacing_mm", pa.list_(pa.float64())),
        ("affine", pa.list_(pa.float64())),
        ("mpp", pa.float64()),
        ("slope", pa.float64()),
        ("intercept", pa.float64()),
        ("unit", pa.string()),
        ("part", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("perceptual_hash", pa.string()),
        ("file_sha256", pa.string()),
        ("padding", pa.list_(pa.float64())),
        ("fallback", pa.string()),
        ("num_not_finite", pa.int64()),
        ("patient_is_assumed", pa.bool_()),
        ("patient_any_issuer", pa.string()),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("annotated", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class Facts:
    """Facts about a dataset as a whole; the dataset card reports empty texts as missing.

    `classes` lists the classes of each label in order; `mask_classes` are the names of the label-map values 0, 1, 2...
    """

    name: str
    license: str = ""
    source: str = ""
    description: str = ""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mask_classes: tuple[str, ...] = ()
    positive: Mapping[str, str] = field(default_factory=dict)
    """Positive class by label key, for labels of two classes."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Options of `values.*` that are not at their default, such as {"pet": "SUVbw"}: the meaning of pixel values."""
    notes: tuple[str, ...] = ()
    """Notes for the dataset's card on facts that rows do not record, such as elements that its de-identified copy
    lacks.
    """

    @classmethod
    def of_dataset(cls, folder: Path) -> Facts:
        """Read the facts of the dataset in a folder, without reading its rows.

        Raises:
            DataError: If the folder is not a dataset, or its schema is newer than this medvit supports.
        """
        return _facts_of(folder, _open(folder))


@dataclass(frozen=True)
class Manifest:
    """Rows in the order of their `image_id`, the facts of the dataset, and the folder with the pixel store.

    >>> import medvit
    >>> manifest = medvit.Manifest.read("runs/dataset")
    >>> len(manifest), len(manifest.split("test"))
    (9, 3)
    >>> row = manifest.rows[0]
    >>> row.modality, row.shape, row.labels
    ('CT', (1, 24, 24, 16), {'phase': 'venous'})
    >>> manifest.store.get(row.sha256).shape
    (1, 24, 24, 16)
    """

    rows: tuple[Row, ...]
    facts: Facts
    folder: Path

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read the manifest of a dataset folder.

        Raises:
            DataError: If the folder is not a dataset, or its schema is newer than this medvit supports.
        """
        folder = Path(folder)
        file = _open(folder)
        try:
            rows = tuple(_row(line) for batch in file.iter_batches(ROWS_A_GROUP) for line in batch.to_pylist())
        except (pa.ArrowException, OSError):
            raise _damaged(folder) from None
        return cls(rows, _facts_of(folder, file), folder)

    def write(self) -> None:
        """Write `manifest.parquet` into the folder, row group by row group, atomically."""
        ordered = sorted(self.rows, key=lambda row: row.image_id)
        metadata = {
            "medvit_schema": str(SCHEMA_VERSION),
            # Values even if empty: a manifest without them is of an earlier version, which has them in config.yaml.
            "medvit_facts": json.dumps({**_facts_tree(self.facts), "values": dict(self.facts.values)}, sort_keys=True),
        }
        schema = SCHEMA.with_metadata(metadata)
        path = self.folder / FILE_NAME
        with replacing(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as file:
            for start in range(0, len(ordered), ROWS_A_GROUP):
                lines = [_line(row) for row in ordered[start : start + ROWS_A_GROUP]]
                file.write_table(pa.Table.from_pylist(lines, schema=schema))

    @property
    def store(self) -> Store:
        """Store of the pixels and label maps of the rows."""
        return Store(self.folder / "images")

    @property
    def hash(self) -> str:
        """SHA-256 over all rows and facts except notes; equal datasets have equal hashes, wherever they are stored."""
        lines = sorted(json.dumps(_hashed_row(row), sort_keys=True) for row in self.rows)
        return hashlib.sha256("\n".join([_hashed_facts(self.facts), *lines]).encode()).hexdigest()

    def filter(self, keep: Callable[[Row], bool]) -> Manifest:
        """Return a manifest of the rows for which `keep` is true."""
        return replace(self, rows=tuple(row for row in self.rows if keep(row)))

    def without_flags(self, flags: Collection[Flag]) -> Manifest:
        """Return a manifest of the rows that have none of the given flags.

        Raises:
            DataError: If no row is left, or if some images were not checked for flags.
        """
        if not flags:
            return self
        num_unseen = sum(row.flags is None for row in self.rows)
        if num_unseen:
            raise DataError(
                f"{self.folder}: {num_unseen} of {len(self)} images were not checked for flags, so skip_flags cannot "
                "skip them; ingest the dataset again, or remove skip_flags"
            )
        kept = self.filter(lambda row: not set(flags) & set(row.flags or ()))
        if not kept.rows:
            raise DataError(f"{self.folder}: all {len(self)} images have a flag of skip_flags; list fewer flags")
        return kept

    def split(self, name: Split) -> Manifest:
        """Return a manifest of the rows of one split.

        Raises:
            DataError: If the manifest has no such rows.
        """
        chosen = self.filter(lambda row: row.split == name)
        if not chosen.rows:
            counts = dict(Counter(row.split for row in self.rows))
            raise DataError(
                f"{self.folder}: there are no rows in the split {name!r} (found {counts}); change splits.* and ingest "
                "again"
            )
        return chosen

    def summary(self) -> Summary:
        """Return the numbers of images, studies and patients, the splits, the labels, and refused files by reason."""
        kinds, splits = Counter(row.kind for row in self.rows), Counter(row.split for row in self.rows)
        refused = quarantine.read(self.folder) if (self.folder / quarantine.FILE_NAME).is_file() else ()
        lines = [
            ("images", ", ".join(counted(number, kind) for kind, number in sorted(kinds.items()))),
            ("studies", str(len({row.study_id for row in self.rows}))),
            ("patients", PatientCount.of(self.rows).cell),
            ("splits", ", ".join(f"{name} {splits[name]}" for name in splits_of(self.rows))),
            *labeled("labels", [*self._labels(), *self._label_maps()] or ["none"]),
            *labeled("refused", list(_refused(refused)) or ["nothing"]),
        ]
        return Summary(lines, {name: what for name, what in FILES.items() if refused or name != quarantine.FILE_NAME})

    def _labels(self) -> Iterator[str]:
        counts: dict[str, Counter[str]] = {}
        for row in self.rows:
            for key, value in row.labels.items():
                counts.setdefault(key, Counter())[value] += 1
        for key, values in sorted(counts.items()):
            shown = ", ".join(f"{value} ({number})" for value, number in values.most_common(SHOWN_CLASSES))
            more = f" and {len(values) - SHOWN_CLASSES} more" if len(values) > SHOWN_CLASSES else ""
            yield f"{key}: {shown}{more}"

    def _label_maps(self) -> Iterator[str]:
        number = sum(row.mask is not None for row in self.rows)
        if number:
            classes = ", ".join(self.facts.mask_classes[:SHOWN_CLASSES])
            more = ", ..." if len(self.facts.mask_classes) > SHOWN_CLASSES else ""
            yield f"label maps of {counted(number, 'image')}" + (f": {classes}{more}" if classes else "")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def _open(folder: Path) -> pq.ParquetFile:
    path = folder / FILE_NAME
    if not path.is_file():
        raise DataError(
            f"{folder} is not a dataset: no {FILE_NAME} in it; "
            f"make one with `medvit ingest source=... dataset={folder}`"
        )
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError):
        raise _damaged(folder) from None
    version = int((file.schema_arrow.metadata or {}).get(b"medvit_schema", b"0"))
    if version not in READABLE_VERSIONS:
        known = ", ".join(map(str, READABLE_VERSIONS))
        raise DataError(f"{path} has schema version {version}; this medvit reads versions {known}")
    return file


def _damaged(folder: Path) -> DataError:
    return DataError(f"{folder / FILE_NAME} is damaged and cannot be read; run ingest again")


def _refused(entries: Sequence[Quarantined]) -> Iterator[str]:
    """Yield a line per refusal code, with the number of files and the most frequent reason."""
    by_code: dict[str, Counter[str]] = {}
    for entry in entries:
        by_code.setdefault(entry.code, Counter())[entry.reason] += entry.num_files
    for code, reasons in sorted(by_code.items(), key=lambda pair: -pair[1].total()):
        others = f" (and {counted(len(reasons) - 1, 'other reason')})" if len(reasons) > 1 else ""
        yield f"{counted(reasons.total(), 'file')}, {code}: {reasons.most_common(1)[0][0]}{others}"


def _line(row: Row) -> dict[str, Any]:
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    return fields | {name: sorted(getattr(row, name).items()) for name in ("labels", "attributes")}


def _facts_tree(facts: Facts) -> dict[str, Any]:
    """Return the facts as plain values.

    Facts that were added in later schemas are omitted if they are empty, so that older datasets keep their hash.
    """
    later = ("positive", "values", "notes")
    tree = asdict(facts)
    tree["licence"] = tree.pop("license")  # as in the hash of every dataset so far
    return {key: value for key, value in tree.items() if key not in later or value}


def _hashed_facts(facts: Facts) -> str:
    """Return the facts that enter the hash, as JSON: all except `notes` and `values`, which do not affect rows."""
    return json.dumps(_facts_tree(replace(facts, notes=(), values={})), sort_keys=True)


def _hashed_row(row: Row) -> dict[str, Any]:
    """Return the values of a row that enter the hash, as plain values.

    Columns that were added in later schemas are omitted if they are empty, so that older datasets keep their hash.
    """
    later = ("part", "flags", "perceptual_hash", "file_sha256", "padding", "fallback", "num_not_finite", "attributes")
    empty: tuple[object, ...] = (None, [], "")
    columns = {
        name: value
        for name, value in _line(row).items()
        if name not in (*later, "patient_any_issuer") or value not in empty
    }
    if not row.patient_is_assumed:
        del columns["patient_is_assumed"]
    if row.annotated is None:
        del columns["annotated"]
    return columns


def _row(line: dict[str, Any]) -> Row:
    spacing, affine, flags = line["spacing_mm"], line["affine"], line.get("flags")
    padding, annotated = line.get("padding"), line.get("annotated")
    return Row(
        **{
            **line,
            "shape": tuple(line["shape"]),
            "labels": dict(line["labels"] or ()),
            "spacing_mm": None if spacing is None else tuple(spacing),
            "affine": None if affine is None else tuple(affine),
            "padding": None if padding is None else tuple(padding),
            "part": line.get("part") or "",
            "patient_any_issuer": line.get("patient_any_issuer") or "",
            "fallback": line.get("fallback") or "",
            "flags": None if flags is None else tuple(flags),
            "attributes": dict(line.get("attributes") or ()),
            "annotated": None if annotated is None else tuple(annotated),
        }
    )


def _facts_of(folder: Path, file: pq.ParquetFile) -> Facts:
    """Return the facts of a dataset. Earlier versions stored the fact `values` only in the configuration."""
    facts = json.loads(file.schema_arrow.metadata[b"medvit_facts"])
    if "values" not in facts:
        facts["values"] = _configured_values(folder)
    classes = {key: tuple(names) for key, names in facts.pop("classes").items()}
    facts["license"] = facts.pop("licence")
    lists = {key: tuple(facts.get(key, ())) for key in ("mask_classes", "notes")}
    return Facts(**{**facts, "classes": classes, **lists})


def _configured_values(folder: Path) -> dict[str, str]:
    values = MadeWith.read(folder).option("taking.values") or {} if (folder / CONFIG).is_file() else {}
    return {key: value for key, value in values.items() if value not in (None, "stored")}
