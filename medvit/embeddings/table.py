"""Table of embeddings: `embeddings.parquet`, one row per image with its pseudonyms, labels and attributes.

It contains all columns of the manifest that describe an image, so that search and drift need no dataset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from medvit.config import Tree
from medvit.errors import ConfigError, DataError
from medvit.files.atomic import replacing
from medvit.records import Row

TABLE = "embeddings.parquet"
TEXTS = ("image_id", "patient_id", "study_id", "series_id", "modality", "kind", "dataset", "split")
MAPS = ("labels", "attributes")


def key_of(facts: Tree) -> str:
    """Return the SHA-256 of the facts that determine embeddings; only embeddings with equal keys can be compared."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class EmbeddedImage:
    """Description of an embedded image: the pseudonyms, labels and attributes of its row in the manifest."""

    image_id: str
    patient_id: str
    study_id: str
    series_id: str
    modality: str
    kind: str
    dataset: str
    split: str
    labels: dict[str, str]
    attributes: dict[str, str]

    @classmethod
    def of(cls, row: Row) -> EmbeddedImage:
        """Return the description of a row of a manifest."""
        texts = {name: str(getattr(row, name)) for name in TEXTS}
        return cls(**texts, labels=dict(row.labels), attributes=dict(row.attributes))

    def value(self, column: str) -> str | None:
        """Return the value of a column, a label or an attribute, in this order; None if the image has none."""
        if column in TEXTS:
            return str(getattr(self, column))
        return self.labels.get(column) or self.attributes.get(column)


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings (N, E) of images, and what is known of these images.

    `facts` are everything that determines an embedding (`ImageEmbedder.facts`).
    """

    images: tuple[EmbeddedImage, ...]
    vectors: Float[Array, "n e"]
    facts: Tree

    @property
    def key(self) -> str:
        """Hash of the facts; only embeddings with equal keys can be compared."""
        return key_of(self.facts)

    def __len__(self) -> int:
        return len(self.images)

    def at(self, chosen: Sequence[int] | Bool[Array, "n"]) -> EmbeddingTable:
        """Return the images at these indices, or those for which a mask is true."""
        places = np.flatnonzero(chosen) if np.asarray(chosen).dtype == bool else np.asarray(chosen, dtype=int)
        return replace(self, images=tuple(self.images[n] for n in places), vectors=self.vectors[places])

    def where(self, keep: Callable[[EmbeddedImage], bool]) -> EmbeddingTable:
        """Return the images for which `keep` is true."""
        return self.at(np.array([keep(image) for image in self.images], dtype=bool))

    def values(self, column: str) -> list[str | None]:
        """Return the value of a column, label or attribute of each image."""
        return [image.value(column) for image in self.images]

    @property
    def columns(self) -> list[str]:
        """Names of all columns, labels and attributes that an image has."""
        named = {name: None for image in self.images for part in MAPS for name in sorted(getattr(image, part))}
        return [*TEXTS, *named]

    def write(self, folder: Path) -> None:
        """Write `embeddings.parquet` into a folder, atomically."""
        columns = {name: pa.array([getattr(image, name) for image in self.images], pa.string()) for name in TEXTS}
        pairs = pa.map_(pa.string(), pa.string())
        columns |= {name: pa.array([sorted(getattr(one, name).items()) for one in self.images], pairs) for name in MAPS}
        flat = pa.array(np.ascontiguousarray(self.vectors, np.float32).ravel())
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        table = pa.table(columns).replace_schema_metadata({"medvit_embeddings": json.dumps(self.facts, sort_keys=True)})
        with replacing(folder / TABLE) as partial:
            pq.write_table(table, partial, compression="zstd")

    @classmethod
    def read(cls, folder: Path) -> EmbeddingTable:
        """Return the embeddings in a folder.

        Raises:
            DataError: If the folder is not an output of embed, or is damaged.
        """
        path = folder / TABLE
        if not path.is_file():
            raise DataError(f"{folder} has no embeddings: no {TABLE} in it; give the output of medvit embed")
        try:
            table = pq.read_table(path)
            facts = json.loads((table.schema.metadata or {})[b"medvit_embeddings"])
            lines = table.select([*TEXTS, *MAPS]).to_pylist()
            column = table["embedding"].combine_chunks()
            vectors = column.flatten().to_numpy().reshape(len(lines), -1)
        except (pa.ArrowException, OSError, KeyError, ValueError):
            raise DataError(f"{path} is damaged and cannot be read; run embed again") from None
        images = tuple(EmbeddedImage(**{**line, **{name: dict(line[name] or ()) for name in MAPS}}) for line in lines)
        return cls(images, vectors, facts)


def require_comparable(one: EmbeddingTable, other: EmbeddingTable, names: tuple[str, str]) -> None:
    """Check that two tables were made with the same weights, preprocessing and features.

    Raises:
        DataError: If they were not; the message names the first fact that differs.
    """
    if one.key == other.key:
        return
    facts = one.facts.keys() | other.facts.keys()
    differing = sorted(name for name in facts if one.facts.get(name) != other.facts.get(name))
    raise DataError(
        f"{names[0]} and {names[1]} were embedded differently ({', '.join(differing)}); embed both with the same "
        "checkpoint and features"
    )


def filtered(table: EmbeddingTable, where: Mapping[str, str], key: str) -> EmbeddingTable:
    """Return the images whose columns, labels or attributes have given values; `key` is the option that gives them.

    Raises:
        ConfigError: If no image has such a column.
        DataError: If no image fits.
    """
    require_columns(table, where, key)
    found = table.where(lambda image: all(image.value(name) == value for name, value in where.items()))
    if not len(found):
        asked = ", ".join(f"{name}: {value}" for name, value in where.items())
        raise DataError(f"no image has {asked} ({key}); give other values")
    return found


def require_columns(table: EmbeddingTable, names: Iterable[str], key: str) -> None:
    """Check that images have the columns, labels or attributes that the option `key` names.

    Raises:
        ConfigError: If no image has one of them.
    """
    known = table.columns
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ConfigError(f"{key} names {', '.join(unknown)}; the images have the columns {', '.join(known)}")


def table_digest(folder: Path) -> str:
    """Return the SHA-256 of the table in a folder."""
    with (folder / TABLE).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
