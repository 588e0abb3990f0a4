"""Lineage as a page: the inputs of an artifact and the artifacts that used it, as tables."""

from __future__ import annotations

from pathlib import Path

from medvit.document import Document, Section, Table
from medvit.lineage.patients import PatientUse
from medvit.lineage.tree import LineageNode, facts

INDENT = "\u2003"
"""Em space, which a page does not collapse."""
HEAD = ["artifact", "role", "kind", "sha256", "state", "made by"]


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
    name = "not found" if found is None else str(found.folder)
    kind = "" if found is None else found.kind
    made = "" if found is None else "; ".join(facts(found))
    state = node.state if node.digest else ""
    lines: list[list[str | float]] = [[f"{INDENT * 2 * depth}{name}", node.role, kind, node.digest[:12], state, made]]
    return lines + [line for branch in node.branches for line in _lines(branch, depth + 1)]
