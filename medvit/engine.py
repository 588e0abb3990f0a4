"""Maps work over items: in this process or in several, in order, each failure kept with its item.

The function must be importable (a top-level function or a frozen dataclass with `__call__`) and its result picklable.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

from tqdm import tqdm

from medvit.config import Config
from medvit.errors import MedvitError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class EngineConfig(Config):
    """Where work over many items runs."""

    num_processes: int = 1
    """Processes on this machine; 1 works in the calling process."""


@dataclass(frozen=True)
class Outcome(Generic[ItemT, ResultT]):
    """What came of one item: a result, or the error that stopped it."""

    item: ItemT
    result: ResultT | None = None
    error: Exception | None = None


def map_items(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], *, config: EngineConfig, title: str
) -> Iterator[Outcome[ItemT, ResultT]]:
    """Outcomes in the order of the items, behind a progress bar with the time left.

    An error in one item never stops the others. A full disk (`OutputError`) is an outcome like any other;
    the caller decides. An item on which a worker process dies becomes an outcome with an error.
    """
    outcomes = _here(function, items) if config.num_processes <= 1 else _spread(function, items, config.num_processes)
    yield from tqdm(outcomes, total=len(items), desc=title, unit="item", disable=len(items) < 2, mininterval=0.5)


def _try(function: Callable[[ItemT], ResultT], item: ItemT) -> Outcome[ItemT, ResultT]:
    try:
        return Outcome(item, result=function(item))
    except Exception as error:  # isolation is this function's purpose: the caller reports each error by kind
        return Outcome(item, error=error)


def _here(function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> Iterator[Outcome[ItemT, ResultT]]:
    for item in items:
        yield _try(function, item)


def _spread(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], num_processes: int
) -> Iterator[Outcome[ItemT, ResultT]]:
    waiting = list(items)
    while waiting:
        num_done = 0
        for outcome in _until_a_worker_dies(function, waiting, num_processes):
            num_done += 1
            yield outcome
        waiting = waiting[num_done:]
        if waiting:
            # A death takes the whole pool along. The first item without an outcome may be the cause: it gets a process
            # of its own, and the rest a new pool.
            yield _alone(function, waiting.pop(0))


def _until_a_worker_dies(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], num_processes: int
) -> Iterator[Outcome[ItemT, ResultT]]:
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs torch threads can hang
    pool = ProcessPoolExecutor(min(num_processes, len(items)), mp_context=context)
    try:
        for future in [pool.submit(_try, function, item) for item in items]:
            yield future.result()
    except BrokenProcessPool:
        return
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted stage does not wait for what has not begun


def _alone(function: Callable[[ItemT], ResultT], item: ItemT) -> Outcome[ItemT, ResultT]:
    for outcome in _until_a_worker_dies(function, [item], 1):
        return outcome
    message = "the worker process died on it, as for lack of memory or in a decoder; lower engine.num_processes"
    return Outcome(item, error=MedvitError(message))
