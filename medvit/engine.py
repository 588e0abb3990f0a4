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
    the caller decides. A worker process that dies makes the items it held outcomes with an error.
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
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs torch threads can hang
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        waiting = [(item, pool.submit(_try, function, item)) for item in items]
        for item, future in waiting:
            try:
                yield future.result()
            except BrokenProcessPool:
                yield Outcome(item, error=MedvitError("a worker process died, perhaps for lack of memory; lower engine.num_processes"))
