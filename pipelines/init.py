"""Survey of a folder of images by their headers, and configurations for these images, as commented YAML."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from medvit.config import Config
from medvit.drafts.draft import Draft
from medvit.drafts.images import Machine, Project
from medvit.drafts.proposals import proposals
from medvit.drafts.writing import next_steps, write_drafts
from medvit.engine import EngineConfig
from medvit.hardware import Device
from medvit.ingest.labels import LabelFrom
from medvit.ingest.survey.found import Survey
from medvit.ingest.survey.screen import counted, screen
from medvit.ingest.survey.source import survey_source
from medvit.sources import Location, RetrieveConfig, local_path
from medvit.stage import Finished


class InitConfig(Config):
    """Options of `medvit init`."""

    source: Location = Field(json_schema_extra={"private": True})
    """Folder, file, archive or DICOMDIR to survey. It is only read, never changed."""
    output: Path = Path("project")
    """Folder for the YAML files, and later for the outputs of the stages. It may exist, but must not contain YAML files
    of an earlier init.
    """
    modality: str = ""
    """DICOM code of the modality, such as MR, CT, DX, US or OP, for files that do not state theirs."""
    label_from: LabelFrom = "auto"
    """Use of folder names as labels. folder: always. auto: only if the names look like classes and consist of imaging
    terms. off: never.
    """
    labels: Path | None = Field(default=None, json_schema_extra={"private": True})
    """CSV or Excel table with labels, if it is stored outside the source. Unset: tables found beside the images."""
    device: Device = "auto"
    """Device for which the training configurations are written. The value auto stands for the GPU if this machine has
    one, else for the CPU.
    """
    retrieve: RetrieveConfig = Field(default_factory=RetrieveConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)

    @model_validator(mode="after")
    def _can_be_looked_at(self) -> Self:
        place = local_path(self.source)
        if place is None:
            raise ValueError(
                "source is a server, but init reads only files on this machine; give a folder, an archive or a DICOMDIR"
            )
        if place.is_dir() and self.output.resolve().is_relative_to(place.resolve()):
            raise ValueError("output is inside the source folder; give a folder outside")
        if self.labels is not None and not self.labels.is_file():
            raise ValueError("labels is not the path of a file; give a CSV or Excel table")
        return self


@dataclass(frozen=True)
class WrittenProject:
    """Configurations written into a folder, and the survey they are based on."""

    folder: Path
    survey: Survey
    drafts: tuple[Draft, ...]


@dataclass(frozen=True)
class Init:
    """Survey a folder without reading pixels, print its contents, and write configuration files for it."""

    config_type: type[InitConfig] = InitConfig

    def run(self, config: InitConfig) -> Finished[WrittenProject]:
        """Print the contents of the source, and write configurations for it.

        Raises:
            OutputError: If a configuration file exists already.
            DataError: If the source is missing or empty.
        """
        output = config.output.absolute()
        found = survey_source(
            config.source,
            config.retrieve,
            config.engine,
            work=output.with_name(f".{output.name}.init"),
            modality=config.modality,
            label_from=config.label_from,
            table=config.labels,
        )
        print("\n".join(screen(found)))
        if not found.groups:
            return Finished(WrittenProject(config.output, found, ()), ("no image in the source can be used",))
        project = Project.of(
            found,
            source=str(Path(config.source).absolute()),
            output=config.output,
            modality=config.modality,
            machine=Machine.this(config.device),
            num_processes=config.engine.num_processes,
        )
        drafts = proposals(found, project)
        write_drafts(drafts, config.output)
        print("\n".join(next_steps(drafts, config.output)))
        return Finished(WrittenProject(config.output, found, drafts), tuple(_findings(found, config)))


def _findings(found: Survey, config: InitConfig) -> Iterator[str]:
    """Yield the causes of exit status 3, one line each."""
    if found.num_failures > found.num_used:
        yield f"{counted(found.num_failures, 'file')} of {found.num_files} would be refused, more than would be used"
    if config.labels is not None and found.table is None:
        yield "the table of labels=... cannot be used unchanged; ingest.yaml gives the reason"


init = Init()
