"""Lineage of an artifact as a tree, backwards and forwards, and the artifacts that saw a patient."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from medvit.config import Config
from medvit.errors import ConfigError, DataError
from medvit.lineage.index import StoredArtifact, find_artifacts, read_artifact
from medvit.lineage.page import write_page, write_patient_page
from medvit.lineage.patients import PatientNames, PatientUse, patient_uses
from medvit.lineage.tree import facts, missing, origins, uses
from medvit.stage import Finished

PATIENT = r"^p-[0-9a-f]{8,}$"


class LineageConfig(Config):
    """Options of `medvit lineage`."""

    path: Path | None = None
    """Folder of an artifact: a dataset, checkpoint, report, embeddings or predictions. Give either `path` or `patient`.
    """
    patient: Annotated[str, Field(pattern=PATIENT)] | None = None
    """Pseudonym of a patient, such as p-0123456789ab: lists the artifacts that contain data of this patient, or were
    trained on them.
    """
    runs: Path = Path()
    """Folder in which artifacts are searched, at any depth."""
    html: Path | None = None
    """Write the result as an HTML page to this file, too."""

    @model_validator(mode="after")
    def _has_one_subject(self) -> LineageConfig:
        if (self.path is None) == (self.patient is None):
            raise ValueError("give either path=FOLDER of an artifact or patient=PSEUDONYM")
        return self


@dataclass(frozen=True)
class Traced:
    """Result of `medvit lineage`: the text of the trees, or of the list of a patient."""

    folder: Path
    text: str


@dataclass(frozen=True)
class LineageStage:
    """Trace an artifact back to its data, code and weights and forward to its uses, or list what saw a patient."""

    config_type: type[LineageConfig] = LineageConfig

    def __call__(self, config: LineageConfig | None = None, **options: object) -> Traced:
        """Trace an artifact or a patient; return the text."""
        return self.run(config or LineageConfig.parse(options, source="lineage")).artifact

    def run(self, config: LineageConfig) -> Finished[Traced]:
        """Print the trees of an artifact, or the artifacts of a patient.

        Raises:
            ConfigError: If a folder does not exist.
            DataError: If the folder is not an artifact, or no artifact contains data of the patient.
        """
        if not config.runs.is_dir():
            raise ConfigError(f"no folder at {config.runs}; give runs=FOLDER that contains the artifacts")
        found = list(find_artifacts(config.runs))
        made, failures = _of_patient(config, found) if config.path is None else _of_artifact(config, config.path, found)
        print(made.text)
        return Finished(made, tuple(failures))


def _of_artifact(config: LineageConfig, path: Path, found: list[StoredArtifact]) -> tuple[Traced, list[str]]:
    artifact = read_artifact(path) if path.is_dir() else None
    if artifact is None:
        raise DataError(f"{path} is not an artifact of medvit: no lineage.json in it; give the output of a stage")
    back, forward = origins(artifact, found), uses(artifact, found)
    used = forward.lines() if forward.branches else [f"no artifact in {config.runs.absolute()}"]
    if config.html is not None:
        write_page(config.html, f"Lineage of {path}", back, forward)
    return Traced(path, "\n".join(["made from", *back.lines(), "", "used by", *used])), missing(back)


def _of_patient(config: LineageConfig, found: list[StoredArtifact]) -> tuple[Traced, list[str]]:
    assert config.patient is not None, "the options have one subject"
    listed = list(patient_uses(PatientNames.of(config.patient, found), found))
    if not listed:
        raise DataError(
            f"none of the {len(found)} artifacts in {config.runs.absolute()} contains data of {config.patient}; "
            "give another runs=FOLDER, or check the pseudonym"
        )
    if config.html is not None:
        write_patient_page(config.html, listed)
    return Traced(config.runs, "\n".join(line for one in listed for line in _lines(one))), []


def _lines(one: PatientUse) -> list[str]:
    return [f"{one.artifact.kind} {one.artifact.folder}: {one.what}", *(f"  {line}" for line in facts(one.artifact))]


lineage = LineageStage()
