"""Processing of a batch: the studies of a work list, one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from functools import partial

from medvit.inference.attempt import Perform, attempt
from medvit.inference.worklist import Worklist
from medvit.progress import Progress
from medvit.writers import Result, Study

log = logging.getLogger("medvit")

GONE = Result("failed", "gone", "the study is no longer in the source; if it is there, run again with retry=failed")
"""Result of a study that another process has found in the source, and this process has not."""
POLL_S = 0.5
"""Seconds between two looks at the studies of other processes."""


def process(worklist: Worklist, studies: Sequence[Study], perform: Perform) -> None:
    """Process the studies that no other process has taken.

    A study that fails never stops the others. Progress counts the studies of all processes.

    Raises:
        OutputError: If results cannot be written, for example on a full disk. The run ends, because later studies
            would fail too.
    """
    by_name = {study.name: study for study in studies}
    worklist.offer(by_name)
    done = worklist.num_ended()
    if done:
        log.info("predict: %d of %d studies are processed already", done, len(studies))
    with Progress(len(by_name), title="predict", unit="study", done=done, is_shown=len(by_name) > done + 1) as progress:
        while (lease := worklist.take()) is not None:
            started, folder = time.monotonic(), worklist.place(lease)
            study = by_name[lease.study]
            result = attempt(partial(perform, study, folder))
            worklist.record(lease, result, seconds=time.monotonic() - started)
            progress.update(worklist.num_ended() - progress.n)


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
