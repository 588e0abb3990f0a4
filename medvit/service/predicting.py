"""Loop that gives the studies of the queue to worker processes and records the results."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from medvit.engine import EngineConfig, map_drawn
from medvit.engine.outcome import Outcome
from medvit.errors import CheckpointError, ConfigError, CrashError, MedvitError, OutputError, TimeLimitError, unexpected
from medvit.files.atomic import is_of_disk
from medvit.files.limits import allow_volumes
from medvit.files.private import OWNER_FOLDER, make_private
from medvit.inference.attempt import attempt, result_of
from medvit.inference.outcomes import BatchOutcomes, StudyOutcome, plain
from medvit.service.models import ModelsInForce
from medvit.service.options import PredictingConfig
from medvit.service.queue import JobQueue, PredictionJob
from medvit.service.store import RECEIVED, RESULTS, WORK, InstanceStore
from medvit.service.worker import ModelWorker, StudyOrder, outputs_of
from medvit.writers import Result

log = logging.getLogger("medvit")

POLL_S, PAUSE_S = 0.2, 10.0
"""Seconds between two looks into the queue, and before another attempt after a fault that is not of a study."""

TOO_LATE = "it took longer than study_timeout_s={:g} allows and was stopped; raise the limit if the study is large"
"""Reason of a study that exceeded the time limit."""

WorkOutcome = Outcome[StudyOrder, tuple[Result, float]]


@dataclass
class PredictionLoop:
    """Thread that predicts the studies of the queue, one after the other."""

    folder: Path
    store: InstanceStore
    queue: JobQueue
    options: PredictingConfig
    in_force: Callable[[], ModelsInForce]
    stop: threading.Event
    fault: str = ""
    """Reason why nothing can be predicted at present; empty if the worker works."""
    running: str = ""
    """Study that is predicted at present."""
    _pause_until: float = 0.0
    _taken: dict[int, PredictionJob] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        shutil.rmtree(self.folder / WORK, ignore_errors=True)
        for name in (RESULTS, WORK):
            (self.folder / name).mkdir(mode=OWNER_FOLDER, exist_ok=True)
        allow_volumes(self.options.max_volume_gib)

    def run(self) -> None:
        """Predict until the service stops."""
        engine = EngineConfig(num_processes=1, item_timeout_s=self.options.study_timeout_s)
        while not self.stop.wait(POLL_S):
            models = self.in_force()
            work = ModelWorker(models.token, models.jobs(self.options))
            try:
                for outcome in map_drawn(work, lambda: self._draw(models), config=engine, attempts=1):  # noqa: B023
                    self._record(outcome)
            except Exception as error:  # the loop must survive whatever a full disk or a library raises
                self._pause(error)

    def give_back(self) -> None:
        """Return what is running to the queue, as the service stops in an orderly way."""
        for job in list(self._taken.values()):
            self.queue.give_back(job, is_counted=False)

    def _draw(self, models: ModelsInForce) -> StudyOrder | None:
        """Take the next study; None if nothing waits, or the models in force have changed."""
        is_paused = time.monotonic() < self._pause_until
        if self.stop.is_set() or is_paused or models.token != self.in_force().token or not self.store.has_space():
            return None
        job = self.queue.take(models.hashes)
        if job is None:
            return None
        self._taken[job.id] = job
        self.running = job.study
        place = self.folder / WORK / f"{job.id}.{job.attempt}" / job.study
        source = self.folder / RECEIVED / job.study
        return StudyOrder(job, source, tuple(self.store.files(job.study)), place)

    def _record(self, outcome: WorkOutcome) -> None:
        job = outcome.item.job
        try:
            if isinstance(outcome.error, CrashError):
                log.warning("serve: the worker process ended on %s, attempt %d", job.study, job.attempt)
                if self.stop.is_set():
                    self.queue.give_back(job, is_counted=False)
                else:
                    self.queue.crashed(job)
            elif _is_of_service(outcome.error):
                self.queue.give_back(job, is_counted=False)
                assert outcome.error is not None
                self._pause(outcome.error)
            else:
                self._publish(outcome)
                self.fault = ""
        finally:
            self._taken.pop(job.id, None)
            self.running = ""
            shutil.rmtree(outcome.item.folder.parent, ignore_errors=True)

    def _publish(self, outcome: WorkOutcome) -> None:
        """Give the results of a study their final folder, with its tables, and record the outcome."""
        order, job = outcome.item, outcome.item.job
        result, seconds = attempt(partial(result_of, outcome)), 0.0
        if isinstance(outcome.error, TimeLimitError):
            result = Result("failed", TimeLimitError.code, TOO_LATE.format(self.options.study_timeout_s))
        if outcome.result is not None:
            result, seconds = outcome.result
        made, final = order.folder.parent, self.folder / RESULTS / job.folder
        made.mkdir(parents=True, exist_ok=True)
        if result.status != "done":
            shutil.rmtree(order.folder, ignore_errors=True)
        findings = tuple(plain(one) for one in result.findings)
        of_study = (result.status, result.code, result.reason, f"{seconds:.2f}", ";".join(result.outputs), findings)
        BatchOutcomes((StudyOutcome(job.study, *of_study),)).write(made)
        make_private(made)
        final.parent.mkdir(mode=OWNER_FOLDER, exist_ok=True)
        shutil.rmtree(final, ignore_errors=True)  # of an attempt that was not recorded
        made.rename(final)
        self.queue.record(job, result, seconds, has_objects=bool(outputs_of(final)))
        log.info("serve: %s with %s: %s %s", job.study, job.model, result.status, result.reason)

    def _pause(self, error: Exception) -> None:
        self.fault = str(error) if isinstance(error, MedvitError) else unexpected(error)
        self._pause_until = time.monotonic() + PAUSE_S
        log.warning("serve: nothing is predicted for %g s: %s", PAUSE_S, self.fault)


def _is_of_service(error: Exception | None) -> bool:
    """Return whether an error would meet every study: a model that cannot be loaded, or a full disk."""
    return isinstance(error, (ConfigError, CheckpointError, OutputError)) or (error is not None and is_of_disk(error))
