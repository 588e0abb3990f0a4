"""Prediction of one study in a worker process, which loads the models once and which a study may kill."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from medvit.deidentification.pseudonyms import SiteNames
from medvit.errors import ConflictError
from medvit.inference.attempt import attempt
from medvit.inference.remote_job import RemoteJob
from medvit.inference.series_selection import studies
from medvit.inference.slide_job import SlideJob
from medvit.inference.stack_job import StackJob
from medvit.inference.study_job import StudyJob
from medvit.readers import find
from medvit.readers.channels import combined
from medvit.readers.options import GeometryConfig
from medvit.service.queue import PredictionJob
from medvit.writers import Result


@dataclass(frozen=True)
class StudyOrder:
    """Order to a worker: predict the received files of a study, and write the results into a folder."""

    job: PredictionJob
    source: Path = field(repr=False)
    files: tuple[Path, ...] = field(repr=False)
    folder: Path


@dataclass(frozen=True)
class ModelWorker:
    """Function that processes orders in a worker process, with the models in force by name."""

    token: str
    """Identifier of the models in force: a process keeps the models of one token."""
    models: Mapping[str, RemoteJob] = field(repr=False)

    def __call__(self, order: StudyOrder) -> tuple[Result, float]:
        """Process an order; return the result and the seconds.

        Raises:
            ConfigError: If the checkpoint has changed since it was pinned.
            CheckpointError: If it cannot be read.
            OutputError: If results cannot be written, for example on a full disk.
            OSError: Likewise.
        """
        job = self._loaded(order.job.model)
        started = time.monotonic()
        shutil.rmtree(order.folder, ignore_errors=True)
        order.folder.mkdir(parents=True)
        result = attempt(partial(self._perform, job, order))
        return result, time.monotonic() - started

    def _loaded(self, model: str) -> StudyJob:
        if (self.token, model) not in _JOBS:
            for other in [key for key in _JOBS if key[0] != self.token]:
                del _JOBS[other]
            job = self.models[model].built()
            assert not isinstance(job, (SlideJob, StackJob)), "refused when the model was pinned"
            _JOBS[self.token, model] = job
        return _JOBS[self.token, model]

    def _perform(self, job: StudyJob, order: StudyOrder) -> Result:
        options = self.models[order.job.model].options
        images = find(order.files, geometry=GeometryConfig(**options.geometry.model_dump()), stacks=None)
        images = combined(images, job.applies_to.channels, order.source)
        names = SiteNames(options.key)
        found = studies(images, order.source, names, job.applies_to).studies
        if len(found) != 1:
            raise ConflictError(f"the received images form {len(found)} studies; expected one")
        return job(replace(found[0], name=order.job.study), order.folder)


_JOBS: dict[tuple[str, str], StudyJob] = {}
"""Jobs of this process, by the token of the models in force and the name of the model."""


def outputs_of(folder: Path) -> Sequence[Path]:
    """Return the DICOM objects among the results in a folder."""
    return sorted(path for path in folder.rglob("*.dcm") if path.is_file())
