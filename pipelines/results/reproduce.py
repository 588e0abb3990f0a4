"""Repetition of a run: its digests are checked, then its command is printed or carried out again."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from medvit import __version__
from medvit.artifacts import CONFIG, METRICS
from medvit.config import Config
from medvit.errors import ConfigError, DataError
from medvit.lineage.index import StoredArtifact, find_artifacts, read_artifact
from medvit.lineage.tree import LETTERS, LineageNode, origins
from medvit.stage import Finished, Stage, StageConfig, digest_of_options
from medvit.tracking import TrackingConfig
from medvit.tracking.environment import current_code
from medvit.tracking.search import output_of


class ReproduceConfig(Config):
    """Options of `medvit reproduce`."""

    run: Path
    """Output folder of the run, or the ID of its MLflow run."""
    runs: Path = Path()
    """Folder in which inputs are searched that are no longer in the folders that the options name."""
    repeat: bool = False
    """Carry out the command again and compare the results. false: only check and print."""
    output: Path | None = None
    """New output folder. Unset: the folder of the run with -repeated at its end."""
    options: tuple[str, ...] = Field(default=(), json_schema_extra={"private": True})
    """Options that are not recorded because they may name patients, as [source=FOLDER,key=FILE]."""
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)


@dataclass(frozen=True)
class Reproduced:
    """Checks and command of a run and, if it was repeated, the comparison with the original output."""

    folder: Path
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Reproduce:
    """Check the inputs, options and code of a run, then print its command, or repeat it and compare the results."""

    config_type: type[ReproduceConfig] = ReproduceConfig

    def __call__(self, config: ReproduceConfig | None = None, **options: object) -> Reproduced:
        """Check and print or repeat a run; return the printed lines."""
        return self.run(config or ReproduceConfig.parse(options, source="reproduce")).artifact

    def run(self, config: ReproduceConfig) -> Finished[Reproduced]:
        """Print the checks and the commands of a run; with `repeat`, carry out its command and compare the results.

        Raises:
            ConfigError: If the run is to be repeated, and options are missing.
            DataError: If there is no such run, or it is to be repeated, and inputs changed or are missing.
        """
        artifact = _artifact(config)
        tree = origins(artifact, list(find_artifacts(config.runs)))
        failures = list(_differences(artifact, tree))
        lines = [f"differs: {line}" for line in failures] or ["inputs, options and code are as they were"]
        commands = _commands(tree, config)
        lines += ["commands, in this order; inputs that exist need not be made again:", *commands]
        if config.repeat:
            lost = [line for line in failures if line.startswith("input")]
            if lost:
                raise DataError(f"{artifact.folder} cannot be repeated: {'; '.join(lost)}")
            result = _repeated(artifact, config)
            failures += [line for line in result if line.startswith("differs")]
            lines += result
        print("\n".join(lines))
        return Finished(Reproduced(artifact.folder, tuple(lines)), tuple(failures))


def _artifact(config: ReproduceConfig) -> StoredArtifact:
    folder, run_id = config.run, config.run.name
    if not folder.is_dir():
        by_id = (one for one in find_artifacts(config.runs) if one.lineage.run_id == run_id)
        found = next(by_id, None)
        if found is not None:
            return found
        folder = Path(output_of(config.tracking, run_id)) if config.tracking.enabled else folder
    artifact = read_artifact(folder) if folder.is_dir() else None
    if artifact is None or not (artifact.folder / CONFIG).is_file():
        raise DataError(
            f"{config.run} is neither the output folder of a finished run nor the ID of an MLflow run whose output "
            f"folder exists; give run=FOLDER, or runs=FOLDER that contains it"
        )
    return artifact


def _differences(artifact: StoredArtifact, tree: LineageNode) -> Iterator[str]:
    """Yield what differs from the time of the run: inputs, options, version, commit and changed files."""
    for node in tree.branches:
        if node.state != "unchanged":
            yield f"input {node.role} {node.digest[:LETTERS]}: {node.state}"
    recorded = artifact.lineage
    if digest_of_options(artifact.config) != recorded.config_sha256:
        yield f"options: {artifact.folder / CONFIG} is not the file that the run wrote"
    if recorded.version != __version__:
        yield f"version: the run used medvit {recorded.version}, this is {__version__}"
    now, before = current_code(), recorded.code
    if before.get("commit") and before.get("commit") != now.get("commit"):
        here = now["commit"][:LETTERS] if now else "not a checkout"
        yield f"commit: the run used {before['commit'][:LETTERS]}, this is {here}"
    if before.get("files") == "changed":
        yield "code: the run used files that differ from its commit"
    elif before.get("commit") and now.get("files") == "changed":
        yield "code: files differ from the commit now"


def _commands(tree: LineageNode, config: ReproduceConfig) -> list[str]:
    """Return the commands that make the inputs of a run, deepest first, and the command of the run."""
    ordered = [node.artifact for node in reversed(list(tree.walk())) if node.artifact is not None]
    unique = {one.folder: one for one in ordered}
    return [f"  {_command(one, config, is_last=one is tree.artifact)}" for one in unique.values() if one.config]


def _command(artifact: StoredArtifact, config: ReproduceConfig, *, is_last: bool) -> str:
    stage = _stage(artifact)
    key = stage.config_type.OUTPUT
    output = _output(artifact, config) if is_last else artifact.folder
    missing = [f"{name}=..." for name in _not_recorded(stage, config if is_last else None)]
    words = ["medvit", stage.name, str(artifact.folder / CONFIG), f"{key}={output}"]
    return " ".join([shlex.join([*words, *(config.options if is_last else ())]), *missing])


def _not_recorded(stage: Stage[Any, Any], config: ReproduceConfig | None) -> list[str]:
    """Return the required options of a stage that are not recorded and were not given."""
    given = {word.partition("=")[0] for word in (config.options if config else ())}
    fields: Mapping[str, Any] = stage.config_type.model_fields
    return [
        name
        for name, one in fields.items()
        if one.is_required()
        and isinstance(one.json_schema_extra, dict)
        and one.json_schema_extra.get("private")
        and name not in given
    ]


def _repeated(artifact: StoredArtifact, config: ReproduceConfig) -> list[str]:
    """Carry out the command of a run; return the comparison of its output with the original one.

    Raises:
        ConfigError: If options are missing.
    """
    stage = _stage(artifact)
    missing = _not_recorded(stage, config)
    if missing:
        raise ConfigError(
            f"{stage.name} needs {' and '.join(missing)}, which may name patients and are not recorded; give "
            f"options=[{','.join(f'{name}=...' for name in missing)}]"
        )
    tracking = [f"tracking.{key}={json.dumps(value)}" for key, value in config.tracking.tree().items()]
    output = _output(artifact, config)
    words = [f"{stage.config_type.OUTPUT}={output}", "resume=false", *tracking, *config.options]
    loaded: StageConfig = stage.config_type.load(artifact.folder / CONFIG, words)
    stage.run(loaded)
    made = read_artifact(output)
    assert made is not None, "the stage has finished"
    return [_compared(artifact, made)]


def _compared(before: StoredArtifact, now: StoredArtifact) -> str:
    pairs = [(one.digest or _digest_of_results(one.folder)) for one in (before, now)]
    if not all(pairs):
        return f"repeated in {now.folder}; outputs of {before.lineage.stage} have no digest to compare"
    if pairs[0] == pairs[1]:
        return f"repeated in {now.folder}: the same result, sha256 {pairs[0][:LETTERS]}"
    return f"differs: {now.folder} has sha256 {pairs[1][:LETTERS]}, the run had {pairs[0][:LETTERS]}"


def _digest_of_results(folder: Path) -> str:
    """Return the digest of the results of a report or of predictions; empty for other outputs."""
    for name in (METRICS, "predictions.csv"):
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return ""


def _output(artifact: StoredArtifact, config: ReproduceConfig) -> Path:
    return config.output or artifact.folder.with_name(f"{artifact.folder.name}-repeated")


def _stage(artifact: StoredArtifact) -> Stage[Any, Any]:
    from pipelines.__main__ import STAGES, find

    if artifact.lineage.stage not in STAGES:
        raise DataError(f"{artifact.folder} was made by {artifact.lineage.stage}, which this medvit does not have")
    return find(artifact.lineage.stage)


reproduce = Reproduce()
