"""Lineage as a page: the inputs of an artifact and the artifacts that used it, as tables."""

from __future__ import annotations

from pathlib import Path

from medvit.document import Document, Section, Table
from medvit.lineage.patients import PatientUse
from medvit.lineage.tree import LineageNode, facts

HEAD = ["artifact", "role", "sha256", "state", "stage", "commit", "config", "MLflow run"]
SHOWN = 8
"""Number of letters of digests and identifiers on the page; the text of the terminal has more."""


def write_page(path: Path, title: str, back: LineageNode, forward: LineageNode) -> None:
    """Write an HTML page with the inputs of an artifact, and the artifacts that were made from it."""
    sections = [
        Section("Made from", [Table(HEAD, _lines(back, 0))]),
        Section("Used by", [Table(HEAD, _lines(forward, 0))]),
    ]
    opening = "Indented artifacts are inputs of the artifact above them or, in the second table, were made from it."
    Document(title, opening, sections).write_html(path)


def write_patient_page(path: Path, uses: list[PatientUse]) -> None:
    """Write an HTML page with the artifacts that contain data of a patient, or were trained on them."""
    lines = [[str(one.artifact.folder), one.artifact.kind, one.what, "; ".join(facts(one.artifact))] for one in uses]
    sections = [Section("Artifacts", [Table(["artifact", "kind", "contents", "made by"], lines)])]
    Document("Data of a patient", f"{len(uses)} artifacts contain data of the patient.", sections).write_html(path)


def _lines(node: LineageNode, depth: int) -> list[list[str | float]]:
    found = node.artifact
    made = ["", "", "", ""]
    if found is not None:
        lineage = found.lineage
        made = [lineage.stage, lineage.code.get("commit", ""), lineage.config_sha256, lineage.run_id or ""]
    name = "not found" if found is None else found.folder.name
    state = node.state if node.digest else ""
    digests = [node.digest[:SHOWN], state, made[0], *(one[:SHOWN] for one in made[1:])]
    lines: list[list[str | float]] = [["\u21b3\u00a0" * depth + name, node.role, *digests]]
    return lines + [line for branch in node.branches for line in _lines(branch, depth + 1)]
