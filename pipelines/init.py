"""From a folder of images to configurations that fit: looks at headers, says what is there, writes commented YAML."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from medvit import sources
from medvit.config import Config
from medvit.drafts.draft import Draft
from medvit.drafts.images import Machine, Project
from medvit.drafts.proposals import proposals
from medvit.engine import EngineConfig
from medvit.errors import OutputError
from medvit.files.atomic import write_text
from medvit.files.private import write_private
from medvit.hardware import Device, resolve_device
from medvit.ingest.labels import LabelFrom
from medvit.ingest.scan import scan
from medvit.ingest.survey.found import Survey, survey
from medvit.ingest.survey.screen import counted, screen
from medvit.sources import Location, RetrieveConfig, fetch, local_path
from medvit.stage import Finished

MANY_FILES, MANY_PROCESSES = 2000, 8
"""From so many files on, ingest is drafted with several processes, at most so many."""


class InitConfig(Config):
    """Options of `medvit init`."""

    source: Location = Field(json_schema_extra={"private": True})
    """Folder, file, archive or DICOMDIR to look at; nothing is written into it."""
    output: Path = Path("project")
    """Folder for the YAML files, and for what the stages make of them; may exist, but must not hold these files."""
    modality: str = ""
    """Modality of files that do not say theirs, by its DICOM code, such as MR, CT, DX, US or OP."""
    label_from: LabelFrom = "auto"
    """Whether folders are classes: auto if they look so and their names are words of imaging; folder, off."""
    labels: Path | None = Field(default=None, json_schema_extra={"private": True})
    """CSV or Excel with labels that lies elsewhere. Unset: tables beside the images are looked at."""
    device: Device = "auto"
    """What trainings are proposed for: auto takes a GPU where this machine has one."""
    retrieve: RetrieveConfig = Field(default_factory=RetrieveConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)

    @model_validator(mode="after")
    def _can_be_looked_at(self) -> Self:
        place = local_path(self.source)
        if place is None:
            raise ValueError(
                "source is a server, and init looks at files of this machine; give a folder, an archive or a DICOMDIR"
            )
        if place.is_dir() and self.output.resolve().is_relative_to(place.resolve()):
            raise ValueError("output lies inside of the source folder; give a place beside it")
        if self.labels is not None and not self.labels.is_file():
            raise ValueError("labels names no file; give a CSV or Excel table")
        return self


@dataclass(frozen=True)
class WrittenProject:
    """Configurations written into a folder, and the survey they follow from."""

    folder: Path
    survey: Survey
    drafts: tuple[Draft, ...]


@dataclass(frozen=True)
class Init:
    """Survey a folder without reading pixels, say what it holds, and write configurations that fit."""

    config_type: type[InitConfig] = InitConfig

    def run(self, config: InitConfig) -> Finished[WrittenProject]:
        """Print what the source holds, and write the configurations that fit.

        Raises:
            OutputError: If one of the files exists.
            DataError: If the source is missing or holds no file.
        """
        found = look(config)
        print("\n".join(screen(found)))
        if not found.groups:
            return Finished(WrittenProject(config.output, found, ()), ("no image in the source can be taken",))
        drafts = proposals(found, _project(config, found))
        write(drafts, config.output)
        print("\n".join(next_steps(drafts, config.output)))
        return Finished(WrittenProject(config.output, found, drafts), tuple(_findings(found, config)))


def look(config: InitConfig) -> Survey:
    """Return what a source holds, by headers; what an archive held is removed again."""
    work = config.output.absolute().with_name(f".{config.output.absolute().name}.init")
    try:
        local = fetch(config.source, config.retrieve, work=work)
        found = scan(local, engine=config.engine)
        place = Path(config.source).absolute().name
        return survey(found, place=place, modality=config.modality, label_from=config.label_from, table=config.labels)
    finally:
        sources.clear(work)
        if work.is_dir() and not any(work.iterdir()):
            work.rmdir()


def write(drafts: Sequence[Draft], folder: Path) -> None:
    """Write each configuration into a folder, the private ones for their owner alone.

    Raises:
        OutputError: If one of the files exists; nothing is written then.
    """
    there = [draft.file_name for draft in drafts if (folder / draft.file_name).exists()]
    if there:
        raise OutputError(
            f"{folder} has {', '.join(there)} already, which init does not overwrite; give another output=..., or "
            "remove them"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for draft in drafts:
            if draft.is_private:
                write_private(folder / draft.file_name, [draft.text().encode()])
            else:
                write_text(folder / draft.file_name, draft.text())
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to: {error.strerror}; give another output=...") from None


def next_steps(drafts: Sequence[Draft], folder: Path) -> list[str]:
    """Return the commands to run next, in their order, below the names of the files."""
    names = ", ".join(draft.file_name for draft in drafts)
    lines = [
        "",
        f"Wrote {names} to {folder}.",
        "Comments explain every option. Review ingest.yaml, then run from here:",
        "",
    ]
    return lines + [f"  medvit {' '.join(draft.command)}" for draft in drafts]


def _project(config: InitConfig, found: Survey) -> Project:
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    machine = Machine(has_gpu=resolve_device(config.device).type != "cpu", num_cpus=num_cpus)
    many = found.num_files >= MANY_FILES
    num_processes = max(config.engine.num_processes, min(num_cpus, MANY_PROCESSES) if many else 1)
    source = str(Path(config.source).absolute())
    return Project(source, config.output, config.modality, machine, num_processes)


def _findings(found: Survey, config: InitConfig) -> Iterator[str]:
    """Return what makes the exit status 3, a line each."""
    if found.num_failures > found.num_used:
        yield f"{counted(found.num_failures, 'file')} of {found.num_files} would be refused, more than would be used"
    if config.labels is not None and found.table is None:
        yield "the table of labels=... cannot be used as it is; ingest.yaml says why"


init = Init()
