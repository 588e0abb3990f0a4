"""Processing of a batch: the studies of a work list, one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from medvit.engine import EngineConfig, map_drawn
from medvit.engine.watch import Watch
from medvit.inference.attempt import Perform, attempt, result_of
from medvit.inference.remote_job import Order
from medvit.inference.worklist import ATTEMPTS, Worklist
from medvit.progress import Progress
from medvit.writers import Result, Study

log = logging.getLogger("medvit")

GONE = Result("failed", "gone", "the study is no longer in the source; if it is there, run again with retry=failed")
"""Result of a study that another process has found in the source, and this process has not."""
POLL_S = 0.5
"""Seconds between two looks at the studies of other processes."""


def process(worklist: Worklist, studies: Sequence[Study], perform: Perform, limit_s: float | None = None) -> None:
    """Process the studies that no other process has taken.

    A study that fails never stops the others. A study that takes longer than `limit_s` is reported in the log.

    Raises:
        OutputError: If results cannot be written, for example on a full disk. The run ends, because later studies
            would fail too.
    """
    by_name = {study.name: study for study in studies}
    with _progress(worklist, by_name) as update, Watch("predict", len(by_name), limit_s) as watch:
        for number, lease in enumerate(iter(worklist.take, None), start=1):
            assert lease is not None
            started, folder = time.monotonic(), worklist.place(lease)
            with watch.of(number):
                result = attempt(partial(perform, by_name[lease.study], folder))
            worklist.record(lease, result, seconds=time.monotonic() - started)
            update()


def process_in_workers(
    worklist: Worklist,
    studies: Mapping[str, Sequence[Study]],
    job: Callable[[Order], tuple[Result, float]],
    engine: EngineConfig,
) -> None:
    """Process the studies that no other process has taken, in local worker processes or on a Ray cluster.

    Only this process takes studies and records their outcomes. `studies` has each study as each of the models selects
    its series.

    Raises:
        OutputError: As `process`.
        ConfigError: If the Ray cluster cannot be reached.
    """

    def draw() -> Order | None:
        lease = worklist.take()
        return None if lease is None else Order(lease, tuple(studies[lease.study]), worklist.place(lease))

    with _progress(worklist, studies) as update:
        for outcome in map_drawn(job, draw, config=engine, attempts=ATTEMPTS):
            seconds = 0.0 if outcome.result is None else outcome.result[1]
            worklist.record(outcome.item.lease, attempt(partial(result_of, outcome)), seconds)
            update()


@contextmanager
def _progress(worklist: Worklist, names: Collection[str]) -> Iterator[Callable[[], None]]:
    """Return a context that offers studies and shows the progress of all processes; call its value after each study."""
    worklist.offer(names)
    done = worklist.num_ended()
    if done:
        log.info("predict: %d of %d studies are processed already", done, len(names))
    is_shown = len(names) > done + 1
    with Progress(len(names), title="predict", unit="study", done=done, is_shown=is_shown) as progress:
        yield lambda: progress.update(worklist.num_ended() - progress.n)


def is_complete(worklist: Worklist, missing: Collection[str]) -> bool:
    """Wait for the studies of other processes; return False if studies of a process that ended have to be taken over.

    `missing` are the studies that waited before the source was last searched and were not found in it. If no other
    process takes part that may have found them, they fail.
    """
    while worklist.wait():
        if worklist.waiting() - set(missing):
            return False
        if not worklist.num_others():
            worklist.give_up(missing, GONE)
            return True
        time.sleep(POLL_S)
    return True
