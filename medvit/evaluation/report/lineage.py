"""Lineage in a report: model, initial weights and datasets by name and hash, and checks that they are independent."""

from __future__ import annotations

from pathlib import Path

from medvit.artifacts import Lineage
from medvit.dataset.manifest import Manifest
from medvit.document import Bullets, Section, Table
from medvit.evaluation.checklists.recorded import options_of
from medvit.evaluation.fact import Fact
from medvit.evaluation.judged import OUT_OF_FOLD, Judged
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.leakage.seen_patients import training_patients

HEAD = ("what", "name", "SHA-256", "medvit")
NOT_RECORDED = "not recorded"
SAME = "the evaluated images are of the dataset that the model was trained on"


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
    facts = {Fact.MODEL_HASH, Fact.DATA_HASHES}
    if any(line[0] == "initial weights" and line[1] != NOT_RECORDED for line in lines):
        facts.add(Fact.INITIAL_WEIGHTS)
    relation, lacks = _relation(options, judged)
    section = Section("Lineage", [Table(HEAD, lines, is_text=True)])
    parts = [ReportPart(ReportPlace.LINEAGE, section, facts=frozenset(facts | relation), lacks=lacks)]
    if judged.checks:
        is_known = options.checkpoint is not None and bool(training_patients(options.checkpoint))
        shared = Section("Training patients and near duplicates", [Bullets(judged.checks)])
        parts.append(ReportPart(ReportPlace.LINEAGE, shared, facts=frozenset({Fact.OVERLAP} if is_known else ())))
    return parts


def _relation(options: EvaluationOptions, judged: Judged) -> tuple[set[Fact], dict[Fact, str]]:
    """Return whether the evaluated dataset is that of training or another one, as far as it is known."""
    if judged.is_same_dataset:
        is_test = judged.split in ("test", OUT_OF_FOLD)
        return ({Fact.OWN_TEST_SPLIT} if is_test else set()), {Fact.OTHER_DATASET: SAME}
    lineage = None if options.checkpoint is None else Lineage.read(options.checkpoint)
    return ({Fact.OTHER_DATASET} if lineage is not None and "dataset" in lineage.inputs else set()), {}


def _inputs_of(checkpoint: Path) -> list[list[str]]:
    """Return training dataset and initial weights of a model, as far as its folder records them."""
    lineage, config = Lineage.read(checkpoint), options_of(checkpoint)
    hashes = dict(lineage.inputs) if lineage is not None else {}
    lines = [["training dataset", _name(config.get("dataset")), hashes.pop("dataset", NOT_RECORDED), ""]]
    initial = hashes.pop("checkpoint", "")
    backbone = config.get("backbone")
    weights = backbone.get("weights") if isinstance(backbone, dict) else None
    if initial:
        lines.append(["initial weights", _name(config.get("checkpoint")), initial, ""])
    elif weights:
        lines.append(["initial weights", _name(weights), hashes.pop("weights", NOT_RECORDED), ""])
    elif config:
        lines.append(["initial weights", "random", "", ""])
    return lines + [[f"input {name}", "", digest, ""] for name, digest in hashes.items()]


def _name(value: object) -> str:
    """Return the last part of a path, or the name of public weights."""
    if isinstance(value, dict):
        value = value.get("name") or value.get("path") or value.get("file")
    return Path(str(value)).name if value else NOT_RECORDED


def _version(folder: Path) -> str:
    lineage = Lineage.read(folder)
    return "" if lineage is None else lineage.version
