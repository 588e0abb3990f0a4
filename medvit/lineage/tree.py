"""Trees of lineage: from an artifact back to its inputs, and from an artifact to those that used it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medvit.lineage.index import StoredArtifact, read_artifact

InputState = Literal["unchanged", "patients deleted since", "changed since", "not found"]
LETTERS = 12
"""Number of letters of a digest that are shown."""


@dataclass(frozen=True)
class LineageNode:
    """Artifact in a tree, with its inputs (backwards) or the artifacts that used it (forwards) as branches.

    `role` is its name among the inputs. `digest` is the recorded digest of its contents at the time of use. `artifact`
    is None if no folder has it.
    """

    role: str
    digest: str
    artifact: StoredArtifact | None
    state: InputState = "unchanged"
    branches: tuple[LineageNode, ...] = ()

    def walk(self) -> Iterator[LineageNode]:
        """Yield this node and all nodes below it."""
        yield self
        for branch in self.branches:
            yield from branch.walk()

    def lines(self) -> list[str]:
        """Return the tree as lines of text; what is below an artifact is shown once."""
        return self._lines(set())

    def _lines(self, shown: set[Path]) -> list[str]:
        if self.artifact is None:
            return [self.title]
        if self.artifact.folder in shown:
            return [f"{self.title}, see above"]
        shown.add(self.artifact.folder)
        found = [self.title, *(f"{'│' if self.branches else ' '}   {line}" for line in facts(self.artifact))]
        for number, branch in enumerate(self.branches):
            is_last = number == len(self.branches) - 1
            first, *rest = branch._lines(shown)
            found += [f"{'└── ' if is_last else '├── '}{first}"]
            found += [f"{'    ' if is_last else '│   '}{line}" for line in rest]
        return found

    @property
    def title(self) -> str:
        """Role, kind, folder, digest and state of the node, in one line."""
        found = self.artifact
        where = "no folder found" if found is None else f"{found.kind} {found.folder}"
        role = f"{self.role}: " if found is None or self.role not in ("", found.kind) else ""
        digest = f", sha256 {self.digest[:LETTERS]}" if self.digest else ""
        state = "" if self.state in ("unchanged", "not found") else f", {self.state}"
        return f"{role}{where}{digest}{state}"


def facts(artifact: StoredArtifact) -> list[str]:
    """Return how an artifact was made: stage, version, code, options and MLflow run."""
    lineage = artifact.lineage
    code = lineage.code.get("commit", "")
    is_changed = lineage.code.get("files") == "changed"
    parts = [
        f"{lineage.stage}, medvit {lineage.version}",
        f"commit {code[:LETTERS]}{' with changed files' if is_changed else ''}" if code else "commit not recorded",
        f"config {lineage.config_sha256[:LETTERS]}",
        f"MLflow run {lineage.run_id}" if lineage.run_id else "not in MLflow",
    ]
    return [", ".join(parts)]


def origins(artifact: StoredArtifact, among: Sequence[StoredArtifact]) -> LineageNode:
    """Return the tree from an artifact back to all its inputs, which are searched in the options and in `among`."""
    return _origins(artifact, among, "", artifact.digest, ())


def uses(artifact: StoredArtifact, among: Sequence[StoredArtifact]) -> LineageNode:
    """Return the tree from an artifact to all artifacts in `among` that were made from it."""
    return _uses(artifact, among, "", ())


def missing(tree: LineageNode) -> list[str]:
    """Return a line for every input of a tree that was not found, or that changed since it was used."""
    return [
        f"{node.role} {node.digest[:LETTERS]}: {node.state}"
        for node in tree.walk()
        if node.state in ("not found", "changed since")
    ]


def _origins(
    artifact: StoredArtifact, among: Sequence[StoredArtifact], role: str, digest: str, above: tuple[Path, ...]
) -> LineageNode:
    branches = []
    for name, recorded in sorted(artifact.lineage.inputs.items()):
        found = _input(artifact, name, recorded, among)
        if found is None or found.folder in above:
            branches.append(LineageNode(name, recorded, None, "not found"))
        else:
            branches.append(_origins(found, among, name, recorded, (*above, artifact.folder)))
    return LineageNode(role, digest, artifact, _state(artifact, digest), tuple(branches))


def _input(artifact: StoredArtifact, name: str, digest: str, among: Sequence[StoredArtifact]) -> StoredArtifact | None:
    """Return the artifact with a digest: that in the options, else any other, else one that changed since."""
    named = _named(artifact, name)
    candidates = [*([named] if named is not None else []), *among]
    by_run = artifact.lineage.parents.get(name)
    for found in candidates:
        if found.kind != "other" and digest in {found.digest, *found.earlier_digests}:
            return found
    return next((one for one in candidates if by_run and one.lineage.run_id == by_run), named)


def _named(artifact: StoredArtifact, name: str) -> StoredArtifact | None:
    """Return the artifact that the options of another one name as an input."""
    value = artifact.config.get(name)
    folder = Path(value) if isinstance(value, str) else None
    return None if folder is None or not folder.is_dir() else read_artifact(folder)


def _state(artifact: StoredArtifact, digest: str) -> InputState:
    if digest == artifact.digest:
        return "unchanged"
    return "patients deleted since" if digest in artifact.earlier_digests else "changed since"


def _uses(artifact: StoredArtifact, among: Sequence[StoredArtifact], role: str, above: tuple[Path, ...]) -> LineageNode:
    digests = {artifact.digest, *artifact.earlier_digests} - {""}
    branches = []
    for one in among:
        names = [name for name, digest in sorted(one.lineage.inputs.items()) if digest in digests]
        if names and one.folder not in above:
            branches.append(_uses(one, among, f"as {names[0]} of", (*above, artifact.folder)))
    return LineageNode(role, artifact.digest, artifact, "unchanged", tuple(branches))
