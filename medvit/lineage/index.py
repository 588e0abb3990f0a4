"""Artifacts below a folder, with the digests by which other artifacts name them as inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from medvit.artifacts import CONFIG, LINEAGE, METRICS, MODEL, PREPROCESS, STATUS, Checkpoint, Lineage
from medvit.config import Tree, read_yaml
from medvit.dataset.manifest import FILE_NAME as MANIFEST
from medvit.dataset.manifest import Manifest
from medvit.embeddings.table import TABLE, table_digest
from medvit.lineage.deletions import deletions

ArtifactKind = Literal["dataset", "checkpoint", "embeddings", "report", "predictions", "other"]
FILES: Mapping[str, ArtifactKind] = {
    MANIFEST: "dataset",
    MODEL: "checkpoint",
    TABLE: "embeddings",
    METRICS: "report",
    STATUS: "predictions",
}
"""File by which the kind of an artifact is recognized -> kind."""
SERVED = "MLmodel"
"""File in the folder of a model that MLflow stores; checkpoints below it are copies."""


@dataclass(frozen=True)
class StoredArtifact:
    """Artifact in a folder: its kind, its lineage, and the digest of its contents."""

    folder: Path
    lineage: Lineage

    @cached_property
    def kind(self) -> ArtifactKind:
        """Kind of the artifact, from its files."""
        return next((kind for name, kind in FILES.items() if (self.folder / name).is_file()), "other")

    @cached_property
    def digest(self) -> str:
        """Digest by which other artifacts name this one; empty if nothing is made from this kind of artifact."""
        if self.kind == "dataset":
            return Manifest.read(self.folder).hash
        if self.kind == "checkpoint":
            return _digest_of_checkpoint(self.folder)
        return table_digest(self.folder) if self.kind == "embeddings" else ""

    @cached_property
    def earlier_digests(self) -> frozenset[str]:
        """Digests that the artifact had before the data of patients were deleted from it."""
        return frozenset(one.before for one in deletions(self.folder))

    @cached_property
    def config(self) -> Tree:
        """Options in force when the artifact was made; empty if they are not recorded."""
        return read_yaml(self.folder / CONFIG) if (self.folder / CONFIG).is_file() else {}

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name


def read_artifact(folder: Path) -> StoredArtifact | None:
    """Return the artifact in a folder; None if the folder has no lineage."""
    lineage = Lineage.read(folder)
    return None if lineage is None else StoredArtifact(folder, lineage)


def find_artifacts(folder: Path) -> Iterator[StoredArtifact]:
    """Yield the finished artifacts in a folder and below it, in order; copies in the store of MLflow are skipped."""
    for path in sorted(folder.rglob(LINEAGE)):
        inner = path.relative_to(folder).parts[:-1]
        is_copy = any((parent / SERVED).is_file() for parent in path.parents[: len(inner) + 1])
        is_unfinished = any(part.startswith(".") or part.endswith(".partial") for part in inner)
        if not is_copy and not is_unfinished:
            found = read_artifact(path.parent)
            if found is not None:
                yield found


def _digest_of_checkpoint(folder: Path) -> str:
    """Return the hash of a checkpoint (`Checkpoint.hash`), without loading its weights."""
    model = read_yaml(folder / MODEL)
    model.pop("schema", None)
    return Checkpoint(folder, model, json.loads((folder / PREPROCESS).read_text(encoding="utf-8")), {}).hash
