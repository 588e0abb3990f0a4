"""Transfer of several series at once from a server to the spool, with retries; each series is complete or refused.

The server is first asked for its list of instances. Files in the spool are not fetched again. An attempt that made
progress is followed by another one. Attempts without progress are counted; when their number reaches the limit, this
series is given up, but the others continue. A server that cannot be reached, or refuses access, ends the stage.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

from medvit.errors import DataError, SourceError
from medvit.progress import Progress, with_progress
from medvit.records import Refusal
from medvit.sources import Local, SourceRequest
from medvit.sources.failures import CutShortError, NotThereError, StoppedError, UnreachableError
from medvit.sources.intake import Intake, RemoteSeries, RemoteStudy, file_name
from medvit.sources.options import ConnectionConfig, Query, RetrieveConfig
from medvit.sources.spool import Spool

log = logging.getLogger("medvit")

INCOMPLETE = "incomplete"
"""Refusal code of an incomplete series."""
MAX_PAUSE_S = 60.0
TALKATIVE = ("dicomweb_client", "urllib3", "pynetdicom", "pydicom")
"""Libraries that log addresses and headers, which name patients."""

T = TypeVar("T")


class Server(Protocol):
    """Connection to a server; used from several threads at once."""

    def studies(self, patient: str, modality: str, query: Query) -> list[RemoteStudy]:
        """Return the studies that match a patient and a modality; an empty argument matches any."""

    def series(self, study: RemoteStudy, query: Query) -> list[RemoteSeries]:
        """Return the series of a study that match a query, with all their instances."""

    def retrieve(self, series: RemoteSeries, missing: Sequence[str], intake: Intake, *, singly: bool) -> None:
        """Pass the missing instances of a series to the intake, with one request per instance if `singly`.

        Raises:
            CutShortError: If the transfer ends early; instances received before are kept.
            SourceError: If the server refuses.
        """


Connect = Callable[[str, RetrieveConfig], AbstractContextManager[Server]]


@dataclass(frozen=True)
class ServerSource:
    """Source for the locations whose URL has one of the `schemes` of a kind of server."""

    name: str
    schemes: tuple[str, ...]
    connect: Connect = field(repr=False)

    def knows(self, location: str) -> bool:
        """Return whether the location is a URL of one of its schemes."""
        return location.lower().startswith(tuple(f"{scheme}://" for scheme in self.schemes))

    def fetch(self, place: SourceRequest) -> Local:
        """Fetch the instances of all studies that match the query."""
        with quiet(), self.connect(place.location, place.options) as server:
            found = _find(server, place.options)
            spool = place.spool()
            with spool.closed_on_failure():
                return Transfer(server, place.options, spool).run(found)

    def studies(self, place: SourceRequest, is_done: Callable[[str], bool]) -> Iterator[Local]:
        """Yield the instances of one study after the other; finished studies (`is_done`) are not fetched.

        An incomplete study never stops the others.
        """
        isolating = place.options.model_copy(update={"incomplete": "quarantine"})
        with quiet(), self.connect(place.location, place.options) as server:
            found = _find(server, place.options)
            by_study: dict[str, list[RemoteSeries]] = {}
            for series in found:
                by_study.setdefault(series.study, []).append(series)
        waiting = [study for study in by_study if not is_done(study)]
        log.info("source: %d of %d studies are left to fetch", len(waiting), len(by_study))
        for study in with_progress(waiting, total=len(waiting), title="studies", unit="study"):
            if is_done(study):  # by another process, meanwhile
                continue
            # One connection per study: processing a study may take longer than a server waits.
            with quiet(), self.connect(place.location, place.options) as server:
                spool = place.spool(study)
                with spool.closed_on_failure():
                    local = Transfer(server, isolating, spool).run(by_study[study])
            yield local


@dataclass
class Transfer:
    """Transfer of series into a spool."""

    server: Server
    options: RetrieveConfig
    spool: Spool
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, found: Sequence[RemoteSeries]) -> Local:
        """Fetch the files of all series.

        Raises:
            SourceError: If the server cannot be reached or refuses, or if series are incomplete and the options do not
                accept that.
        """
        num_wanted = sum(len(series.instances) for series in found)
        num_here = num_wanted - sum(len(self._missing(series)) for series in found)
        if num_here:
            log.info("source: %d of %d instances are already here from an earlier run", num_here, num_wanted)
        with Progress(num_wanted, title="fetch", unit="file", done=num_here) as progress:
            jobs = [partial(self._fetch, series, progress) for series in found if self._missing(series)]
            reasons = dict(in_threads(jobs, self.options.concurrency, self.stop))
        reasons = {series: reason for series, reason in reasons.items() if reason}
        if reasons and self.options.incomplete == "refuse":
            raise self._incomplete(reasons, len(found))
        whole = [series for series in found if series not in reasons]
        files = (self.spool.path(file_name(series, uid)) for series in whole for uid in series.instances)
        refusals = tuple(self._refusal(series, reason) for series, reason in reasons.items())
        return Local(self.spool.root, tuple(sorted(files)), refusals, self.spool)

    def _fetch(self, series: RemoteSeries, progress: Progress) -> tuple[RemoteSeries, str]:
        """Fetch a series with retries; return it with the reason why it is incomplete.

        The reason is empty if the series is complete.
        """
        idle = 0
        while missing := self._missing(series):
            reason = "the server lists them and did not send them"
            intake = Intake(self.spool, series, missing, self.stop, progress.update)
            try:
                self.server.retrieve(series, missing, intake, singly=idle > 0)
            except UnreachableError:
                if idle >= self.options.retries:
                    raise
            except CutShortError as error:
                reason = str(error)
            if intake.failure is not None:
                raise intake.failure
            reason = intake.objection or reason
            idle = 0 if len(self._missing(series)) < len(missing) else idle + 1
            if idle > self.options.retries:
                return series, reason
            if idle:
                pause(self.options, idle, self.stop)
        return series, ""

    def _missing(self, series: RemoteSeries) -> list[str]:
        return [uid for uid in series.instances if not self.spool.has(file_name(series, uid))]

    def _incomplete(self, reasons: dict[RemoteSeries, str], num_series: int) -> SourceError:
        reason, _ = Counter(reasons.values()).most_common(1)[0]
        return SourceError(
            f"{sum(len(self._missing(series)) for series in reasons)} instances of {len(reasons)} of {num_series} "
            f"series were not received; most often: {reason}; continue with resume=true, which fetches only those, or "
            "exclude the series with retrieve.incomplete=quarantine"
        )

    def _refusal(self, series: RemoteSeries, reason: str) -> Refusal:
        here = [file_name(series, uid) for uid in series.instances if self.spool.has(file_name(series, uid))]
        files = tuple(map(self.spool.path, here)) or (self.spool.path(file_name(series, series.instances[0])),)
        num_missing = len(series.instances) - len(here)
        return Refusal(
            files, INCOMPLETE, f"{num_missing} of {len(series.instances)} instances were not received: {reason}"
        )


def in_threads(jobs: Sequence[Callable[[], T]], num_threads: int, stop: threading.Event) -> Iterator[T]:
    """Yield the results of the jobs as they finish; the first failure stops the others and is raised."""
    with ThreadPoolExecutor(num_threads) as pool:
        futures: list[Future[T]] = [pool.submit(job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def persist(action: Callable[[], T], options: ConnectionConfig, stop: threading.Event) -> T:
    """Return the result of an action, repeated after failures that a retry may fix.

    Raises:
        SourceError: The error of the last attempt.
    """
    for attempt in range(1, options.retries + 1):
        try:
            return action()
        except NotThereError:
            raise
        except CutShortError:
            pause(options, attempt, stop)
    return action()


def pause(options: ConnectionConfig, attempt: int, stop: threading.Event) -> None:
    """Wait before the next attempt.

    The waiting time increases with the number of attempts so far (`attempt`) and is partly random.

    Raises:
        StoppedError: If the transfer was stopped in the meantime.
    """
    seconds = min(options.backoff_s * 2 ** (attempt - 1), MAX_PAUSE_S) * random.uniform(0.5, 1.0)
    if stop.wait(seconds):
        raise StoppedError


def _find(server: Server, options: RetrieveConfig) -> list[RemoteSeries]:
    """Return the series that match the query, in an order that does not depend on the server.

    Raises:
        DataError: If no series matches.
    """
    query, stop = options.query, threading.Event()
    asked = [(patient, modality) for patient in query.patient_ids() for modality in query.modality or ("",)]
    searches = [
        partial(persist, partial(server.studies, patient, modality, query), options, stop)
        for patient, modality in asked
    ]
    matched = _all(searches, options, stop, "find studies")
    studies = {study.uid: study for found in matched for study in found}
    patients: dict[str, set[str]] = {}
    for study in (study for found in matched for study in found):
        patients.setdefault(study.uid, set()).add(study.patient)
    looks = [partial(persist, partial(server.series, study, query), options, stop) for study in studies.values()]
    looked = _all(looks, options, stop, "find series")
    known = {uid: frozenset() if "" in found else frozenset(found) for uid, found in patients.items()}
    series = sorted(
        (replace(one, patients=known[one.study]) for found in looked for one in found),
        key=lambda one: (one.study, one.uid),
    )
    filled = [one for one in series if one.instances]
    if not filled:
        raise DataError(
            f"the server has no series that match the query ({len(studies)} studies matched); widen retrieve.query"
        )
    num_instances = sum(len(one.instances) for one in filled)
    num_studies = len({one.study for one in filled})
    log.info("source: %d studies, %d series, %d instances", num_studies, len(filled), num_instances)
    return filled


def _all(jobs: Sequence[Callable[[], T]], options: RetrieveConfig, stop: threading.Event, title: str) -> list[T]:
    done = in_threads(jobs, options.concurrency, stop)
    return list(with_progress(done, total=len(jobs), title=title, unit="query", is_shown=len(jobs) > 1))


@contextmanager
def quiet() -> Iterator[None]:
    """Return a context that silences the logs of network libraries.

    These logs quote the messages that are sent and received, which may name patients.
    """
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
