"""Registration of a model in the MLflow model registry, from a report whose criteria it met."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from medvit.artifacts import CONFIG, METRICS, Checkpoint, Lineage
from medvit.config import read_yaml
from medvit.dataset.manifest import Facts
from medvit.errors import CheckpointError, ConfigError, DataError
from medvit.files.atomic import write_text
from medvit.stage import Run, StageConfig, first_free, stage
from medvit.stage.run import NOT_OF_RESULT
from medvit.statistics import Estimate
from medvit.summary import Summary
from medvit.tracking.model_registry import (
    FILES_TAG,
    SHA256_TAG,
    VERDICT_TAG,
    NewVersion,
    digest_of_files,
    register_version,
)
from medvit.tracking.tracker import flatten

CODE = Path(__file__).with_name("_served_model.py")
"""File that defines the model that MLflow serves."""
REGISTERED = "registered.json"
SHOWN_METRICS, MAX_ABOUT, MAX_PARAM = 12, 4900, 500
"""Maximum number of metrics in a description, and of letters in a description and a parameter (MLflow's tables)."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
ALIAS_PATTERN = r"^([A-Za-z][A-Za-z0-9_-]*)?$"


class RegisterConfig(StageConfig):
    """Options of `medvit register`."""

    USES_TORCH: ClassVar[bool] = False

    checkpoint: Path
    """Folder of the model, made by finetune or calibrate."""
    report: Path
    """Report of this model, made by evaluate with `criteria`."""
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """Name in the registry: letters, digits, dots, dashes and underscores. The model becomes a new version of it."""
    alias: Annotated[str, Field(pattern=ALIAS_PATTERN)] = ""
    """Alias of the new version, such as champion or challenger. It is moved from the version that has it. Empty: none.
    """
    allow: tuple[Literal["failed", "not judged"], ...] = ()
    """Verdicts with which a model is registered although it did not pass its criteria. The version has the verdict as
    a tag.
    """
    output: Path | None = None
    """New folder for the record. Unset: the first unused name of register-1, register-2... in the current folder."""

    @property
    def folder(self) -> Path:
        """Output folder."""
        return self.output or first_free("register")


@dataclass(frozen=True)
class Registered:
    """Finished registration: `registered.json`, with the name, the version and its tags."""

    folder: Path
    name: str
    version: str
    verdict: str

    def summary(self) -> Summary:
        """Return how to use the version."""
        uses = f"checkpoint=models:/{self.name}/{self.version}"
        return Summary(
            [("version", f"{self.name} {self.version}"), ("verdict", self.verdict), ("use it as", uses)],
            {REGISTERED: "name, version and tags"},
        )


@stage
def register(config: RegisterConfig, run: Run) -> Registered:
    """Register a model in MLflow from a report whose criteria it met, so that all stages find it by name."""
    if not config.tracking.enabled:
        raise ConfigError("tracking.enabled=false, but a model is registered in MLflow; set tracking.uri")
    if re.fullmatch(r"latest|[vV][0-9]+", config.alias):
        raise ConfigError(f"alias={config.alias} is reserved by MLflow; give another one, such as champion")
    checkpoint = run.checkpoint(config.checkpoint)
    if checkpoint.is_adapter:
        raise CheckpointError(
            f"{checkpoint.folder} contains only its adapter (store=adapter), so a copy of it is not a model; register "
            "a model that was fine-tuned with store=all"
        )
    metrics = _metrics(config.report)
    lineage = _lineage_of(config.report, checkpoint)
    verdict = str(metrics.get("verdict", {}).get("name", "not judged"))
    if verdict != "passed" and verdict not in config.allow:
        raise DataError(
            f"the verdict of {config.report} is {verdict!r}; a model is registered if it passed the criteria of its "
            f"report: evaluate with criteria=..., or register it in spite of this with allow=[{verdict}]"
        )
    facts = Facts.of_dataset(dataset) if (dataset := _dataset_of(config.report)) else None
    tags = {
        SHA256_TAG: checkpoint.hash,
        FILES_TAG: digest_of_files(checkpoint.folder),
        VERDICT_TAG: verdict,
        "medvit.report": str(config.report.absolute()),
        "medvit.report_run": lineage.run_id or "",
        **{f"medvit.input.{name}": digest for name, digest in sorted(lineage.inputs.items())},
    }
    split = _split_of(config.report)
    trained = Lineage.read(checkpoint.folder)
    new = NewVersion(
        config.name,
        checkpoint.folder,
        CODE,
        checkpoint.kind,
        tags,
        _about(config, checkpoint, metrics, verdict),
        _params(checkpoint.folder),
        _tracked(metrics["metrics"], split),
        ("" if facts is None else facts.name, lineage.inputs.get("dataset", "")),
        None if trained is None else trained.run_id,
        run.tracker.run_id,
    )
    version = register_version(config.tracking, new, config.alias)
    record = {"name": config.name, "version": version, "alias": config.alias, "tags": tags}
    write_text(run.folder / REGISTERED, json.dumps(record, indent=2) + "\n")
    run.keep(REGISTERED)
    return Registered(run.folder, config.name, version, verdict)


def _metrics(report: Path) -> Mapping[str, Any]:
    path = report / METRICS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(f"{report} is not a report: no {METRICS} in it; give the output of evaluate") from None
    except ValueError:
        raise DataError(f"{path} is damaged and cannot be read; run evaluate again") from None
    if not isinstance(found, dict) or "metrics" not in found:
        raise DataError(f"{path} is not from evaluate; give the output of evaluate")
    return found


def _lineage_of(report: Path, checkpoint: Checkpoint) -> Lineage:
    """Return the lineage of a report.

    Raises:
        DataError: If the report is not of this checkpoint.
    """
    lineage = Lineage.read(report)
    evaluated = None if lineage is None else lineage.inputs.get("checkpoint")
    if lineage is None or evaluated != checkpoint.hash:
        raise DataError(
            f"{report} is not of the model in {checkpoint.folder}: it evaluated weights with the hash "
            f"{(evaluated or 'unknown')[:16]}, and the checkpoint has {checkpoint.hash[:16]}; evaluate this model"
        )
    return lineage


def _of_all(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the defined metrics over all classes."""
    return {name: one for name, one in metrics.items() if "." not in name and one["value"] is not None}


def _tracked(metrics: Mapping[str, Mapping[str, Any]], split: str) -> dict[str, float]:
    """Return the metrics over all classes as numbers for MLflow, named as in the run of evaluate."""
    nan = float("nan")
    each = {
        name: Estimate(
            one["value"], nan if one["low"] is None else one["low"], nan if one["high"] is None else one["high"]
        )
        for name, one in _of_all(metrics).items()
    }
    return {key: value for name, one in each.items() for key, value in one.named(f"{split}.{name}").items()}


def _about(config: RegisterConfig, checkpoint: Checkpoint, metrics: Mapping[str, Any], verdict: str) -> str:
    """Return the description of a version: task, classes, verdict, metrics with intervals, and how to use it."""
    lines = [f"Task: {checkpoint.kind}. Verdict of the report: {verdict}.", ""]
    classes = checkpoint.model.get("classes")
    if classes:
        lines += [f"Classes: {', '.join(map(str, classes))}.", ""]
    facts = metrics.get("facts", {})
    lines += [f"- {name}: {facts[name]}" for name in ("Dataset", "Split", "Trained on") if facts.get(name)]
    for name, one in list(_of_all(metrics["metrics"]).items())[:SHOWN_METRICS]:
        ends = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
        lines.append(f"- {name}: {one['value']:.3f}{ends}")
    lines += ["", f"Report: `{config.report.absolute()}`", "", "For research use only. Not a medical device."]
    return "\n".join(lines)[:MAX_ABOUT]


def _params(folder: Path) -> dict[str, str]:
    """Return the options with which the model was trained, with dotted names."""
    tree = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return {
        name: str(value)[:MAX_PARAM] for name, value in flatten(tree) if name.partition(".")[0] not in NOT_OF_RESULT
    }


def _split_of(report: Path) -> str:
    return str(read_yaml(report / CONFIG).get("split", "test")) if (report / CONFIG).is_file() else "test"


def _dataset_of(report: Path) -> Path | None:
    """Return the folder of the evaluated dataset, if it still exists."""
    named = read_yaml(report / CONFIG).get("dataset") if (report / CONFIG).is_file() else None
    return Path(str(named)) if named and Path(str(named)).is_dir() else None
