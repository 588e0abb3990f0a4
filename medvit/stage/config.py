"""Options common to all stages, and names of the files in the working folder of a run."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import ClassVar, Protocol

from pydantic import Field

from medvit import tracking
from medvit.artifacts import CONFIG
from medvit.config import Config
from medvit.files.lock import LOCK
from medvit.logs import LOG
from medvit.summary import Summary
from medvit.tracking import TrackingConfig

OPTIONS, INPUTS = ".options.yaml", ".inputs.json"
"""Hidden files of an unfinished run: its options as requested, and the digests of its inputs."""
WORK = ".work"
"""Folder in the working folder of a shared stage, with a folder for the unfinished files of each process."""
BOOKKEEPING = (CONFIG, OPTIONS, INPUTS, LOCK, LOG, tracking.FOLDER)
"""Names of the files that a run writes into its folder before it produces any output."""


class Artifact(Protocol):
    """Output of a stage: a frozen dataclass with its folder."""

    @property
    def folder(self) -> Path:
        """Folder of the artifact."""

    def summary(self) -> Summary:
        """Return a summary of the contents, for the terminal and the log."""


class StageConfig(Config):
    """Options common to all stages."""

    OUTPUT: ClassVar[str] = "output"
    """Key that names the output folder."""
    MAY_CHANGE: ClassVar[tuple[str, ...]] = ("resume", "tracking")
    """Keys that may differ between an unfinished run and its continuation; keys in groups have dotted names."""
    IS_DISTRIBUTED: ClassVar[bool] = False
    """Whether the processes of a distributed run share the work. If False, rank 0 does all of it."""
    IS_PRIVATE: ClassVar[bool] = False
    """Whether the output names patients, so that only its owner may read it."""
    IS_SHARED: ClassVar[bool] = False
    """Whether several processes with the same options may work in one output folder. The first one gives the folder
    its final name. The others join its run, and one of them continues it if the first one ends early.
    """
    USES_TORCH: ClassVar[bool] = True
    """Whether the stage draws random numbers with torch. If False, torch is not seeded: its import takes seconds."""
    RESOLVED: ClassVar[tuple[str, ...]] = ()
    """Keys whose values follow from the data or a checkpoint and are set by the recipe (`Run.in_force`). Keys in groups
    have dotted names.
    """

    seed: int = 0
    """Seed of all random numbers."""
    resume: bool = False
    """Continue the unfinished run in the output folder."""
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @property
    def folder(self) -> Path:
        """Output folder."""
        return Path(getattr(self, self.OUTPUT))

    @property
    def reopens(self) -> bool:
        """Whether a finished output of the same options is opened again, to process a part of it again."""
        return False

    def shown(self) -> Artifact | None:
        """Print a report on an output, if the options ask for that instead of a run, and return the output."""
        return None


def first_free(name: str) -> Path:
    """Return the first path NAME-1, NAME-2 and so on that does not exist in the current folder."""
    return next(path for path in (Path(f"{name}-{number}") for number in count(1)) if not path.exists())
