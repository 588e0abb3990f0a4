"""Lineage in a report: model, initial weights and datasets by name and hash, and checks that they are independent."""

from __future__ import annotations

from pathlib import Path

from medvit.artifacts import CONFIG, Lineage
from medvit.config import Tree, read_yaml
from medvit.dataset.manifest import Manifest
from medvit.document import Bullets, Section, Table
from medvit.evaluation.judged import Judged
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.part import ReportPart, ReportPlace

HEAD = ("what", "name", "SHA-256", "medvit")


def lineage_parts(options: EvaluationOptions, manifest: Manifest, judged: Judged) -> list[ReportPart]:
    """Return the section about model and data, and the section about patients and images that they share.

    Names are those of folders and files, without the folders that contain them.
    """
    evaluated = options.checkpoint or options.predictions
    assert evaluated is not None, "one of both is given"
    lines = [["evaluated model", evaluated.name, judged.model_hash, _version(evaluated)]]
    if options.checkpoint is not None:
        lines += _inputs_of(options.checkpoint)
    lines.append(["evaluated dataset", manifest.facts.name, manifest.hash, _version(manifest.folder)])
    if options.against is not None:
        lines.append(["compared report", options.against.name, "", _version(options.against)])
    shared = Section("Training patients and near duplicates", [Bullets(judged.checks)])
    parts = [ReportPart(ReportPlace.LINEAGE, Section("Lineage", [Table(HEAD, lines, is_text=True)]))]
    return [*parts, *([ReportPart(ReportPlace.LINEAGE, shared)] if judged.checks else [])]


def _inputs_of(checkpoint: Path) -> list[list[str]]:
    """Return training dataset and initial weights of a model, as far as its folder records them."""
    lineage, config = Lineage.read(checkpoint), _config_of(checkpoint)
    hashes = dict(lineage.inputs) if lineage is not None else {}
    lines = [["training dataset", _name(config.get("dataset")), hashes.pop("dataset", "not recorded"), ""]]
    initial = hashes.pop("checkpoint", "")
    backbone = config.get("backbone")
    weights = backbone.get("weights") if isinstance(backbone, dict) else None
    if initial:
        lines.append(["initial weights", _name(config.get("checkpoint")), initial, ""])
    elif weights:
        lines.append(["initial weights", _name(weights), hashes.pop("weights", "not recorded"), ""])
    elif config:
        lines.append(["initial weights", "random", "", ""])
    return lines + [[f"input {name}", "", digest, ""] for name, digest in hashes.items()]


def _config_of(folder: Path) -> Tree:
    path = folder / CONFIG
    return read_yaml(path) if path.is_file() else {}


def _name(value: object) -> str:
    """Return the last part of a path, or the name of public weights."""
    if isinstance(value, dict):
        value = value.get("name") or value.get("path") or value.get("file")
    return Path(str(value)).name if value else "not recorded"


def _version(folder: Path) -> str:
    lineage = Lineage.read(folder)
    return "" if lineage is None else lineage.version
