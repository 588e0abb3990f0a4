"""Job in worker processes: each process builds the job from the options once, and then processes studies."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from medvit.artifacts import Checkpoint
from medvit.deidentification.pseudonyms import SiteNames
from medvit.errors import ConfigError
from medvit.inference.attempt import attempt
from medvit.inference.jobs import make_job, make_stack_job, names_of
from medvit.inference.operating_points import OperatingPoint
from medvit.inference.options import PredictionOptions
from medvit.inference.slide_job import SlideJob
from medvit.inference.stack_job import StackJob
from medvit.inference.study_job import StudyJob
from medvit.inference.worklist import Lease
from medvit.writers import Maker, Result, Study

AnyJob = StudyJob | SlideJob | StackJob


@dataclass(frozen=True)
class Order:
    """Study to process: its lease, the study as each of the models selects its series, and the folder for outputs."""

    lease: Lease
    studies: tuple[Study, ...] = field(repr=False)
    folder: Path


@dataclass(frozen=True)
class RemoteJob:
    """Function that processes an order in any process that can read the files; returns its result and the seconds.

    The makers and the operating points are keyed by the name of the model.
    """

    token: str
    """Identifier of the run: a process keeps the job of one run."""
    options: PredictionOptions = field(repr=False)
    makers: Mapping[str, Maker]
    points: Mapping[str, Sequence[OperatingPoint]]

    def __call__(self, order: Order) -> tuple[Result, float]:
        """Process an order.

        Raises:
            OutputError: If results cannot be written, for example on a full disk.
            OSError: Likewise.
        """
        job = self._job()
        started = time.monotonic()
        shutil.rmtree(order.folder, ignore_errors=True)  # of a process that was killed
        order.folder.mkdir(parents=True)
        result = attempt(partial(perform, job, order.studies, order.folder))
        return result, time.monotonic() - started

    def _job(self) -> AnyJob:
        if self.token not in _JOBS:
            _JOBS.clear()
            _JOBS[self.token] = self.built()
        return _JOBS[self.token]

    def built(self) -> AnyJob:
        """Return the job, with its models loaded.

        Raises:
            ConfigError: If a checkpoint has changed since the job was made.
        """
        options, names = self.options, SiteNames(self.options.key)
        if len(options.checkpoint) > 1:
            folders = zip(names_of(options.checkpoint), options.checkpoint, strict=True)
            adapters = {name: self._unchanged(name, Checkpoint.load_adapter(folder)) for name, folder in folders}
            return make_stack_job(options, adapters, names, self.makers, self.points)
        ((name, maker),) = self.makers.items()
        checkpoint = self._unchanged(name, Checkpoint.load(options.checkpoint[0]))
        return make_job(options, checkpoint, names, maker, self.points.get(name, ()))

    def _unchanged(self, name: str, checkpoint: Checkpoint) -> Checkpoint:
        if checkpoint.hash != self.makers[name].model_sha256:
            raise ConfigError(f"{checkpoint.folder} has changed since it was pinned; restore it, or load it again")
        return checkpoint


_JOBS: dict[str, AnyJob] = {}
"""Job of this process, by the token of its run."""


def perform(job: AnyJob, studies: Sequence[Study], folder: Path) -> Result:
    """Process a study, given as each of the models of a job selects its series."""
    if isinstance(job, StackJob):
        return job(studies, folder)
    (study,) = studies
    return job(study, folder)
