"""Registration of a model in the MLflow model registry, from a report whose criteria it met."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from medvit.artifacts import METRICS, Checkpoint, Lineage
from medvit.errors import CheckpointError, ConfigError, DataError
from medvit.files.atomic import write_text
from medvit.stage import Run, StageConfig, first_free, stage
from medvit.summary import Summary
from medvit.tracking.model_registry import FILES_TAG, SHA256_TAG, VERDICT_TAG, digest_of_files, register_version

CODE = Path(__file__).with_name("_served_model.py")
"""File that defines the model that MLflow serves."""
REGISTERED = "registered.json"
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
    tags = {
        SHA256_TAG: checkpoint.hash,
        FILES_TAG: digest_of_files(checkpoint.folder),
        VERDICT_TAG: verdict,
        "medvit.report": str(config.report.absolute()),
        "medvit.report_run": lineage.run_id or "",
        **{f"medvit.input.{name}": digest for name, digest in sorted(lineage.inputs.items())},
        **_tags_of_metrics(metrics["metrics"]),
    }
    version = register_version(config.tracking, config.name, checkpoint.folder, CODE, tags, config.alias)
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


def _tags_of_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the metrics over all images as tags: value and interval."""
    tags = {}
    for name, metric in metrics.items():
        if "." not in name and metric["value"] is not None:
            ends = "" if metric["low"] is None else f" [{metric['low']:.3f}, {metric['high']:.3f}]"
            tags[f"medvit.metric.{name}"] = f"{metric['value']:.3f}{ends}"
    return tags
