"""Map a function over items, in order: in this process, in local processes or on a Ray cluster.

The function must be importable (a top-level function or a frozen dataclass with `__call__`), and its result picklable.
The number of items in progress is limited, so memory does not grow with the number of items. If a worker dies, only its
item is affected: the item is tried once more, and if its worker dies again, the error is its outcome. A worker that
exceeds the time limit of an item, as when a decoder hangs, is killed and replaced; in the calling process, only a
warning is logged. An error is returned together with its item.

Ray is not used on a single machine, because it takes 7 times as long to start and 10 times as long per item (measured
on two cores: 11 s instead of 1.5 s, and 1.7 ms instead of 0.15 ms per empty item).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, Literal

from pydantic import model_validator

from medvit.config import Config, Count, Positive
from medvit.engine.cluster import on_cluster
from medvit.engine.local import Crew, has_idle_workers
from medvit.engine.outcome import ItemT, Outcome, ResultT, tried
from medvit.engine.watch import Watch
from medvit.files.limits import allowed_gib, allowing
from medvit.hardware import one_blas_thread
from medvit.progress import Progress

AHEAD = 32
"""Maximum number of items per worker that may be in progress, or finished but not yet returned. It is large, so that
workers rarely wait for one slow item.
"""


class EngineConfig(Config):
    """Parallel processing, on this machine or on a Ray cluster."""

    name: Literal["processes", "ray"] = "processes"
    """Place where the work is done: processes on this machine, or a Ray cluster. The value ray requires pip install
    'medvit[ray]' and machines that share the same folders.
    """
    num_processes: Count = 1
    """Number of processes on this machine. 1: all work is done in the main process. An existing Ray cluster ignores
    this number.
    """
    address: str | None = None
    """Ray cluster to join: HOST:PORT of its head node, or the word auto for the cluster on this machine. Unset: a new
    cluster is started on this machine.
    """
    item_timeout_s: Positive | None = 3600.0
    """Time limit in seconds for an image, or for a batch of 64 headers. If it is exceeded, the image fails and its
    process is replaced. With num_processes=1, there is only a warning. Unset: no limit.
    """

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, tree: Any) -> Any:
        return {"name": tree} if isinstance(tree, str) else tree

    @model_validator(mode="after")
    def _address_is_of_ray(self) -> EngineConfig:
        if self.address is not None and self.name != "ray":
            raise ValueError("address=... is for engine.name=ray only; remove it, or choose ray")
        return self


def map_items(
    function: Callable[[ItemT], ResultT],
    items: Sequence[ItemT],
    *,
    config: EngineConfig,
    title: str,
    weights: Sequence[int] | None = None,
    unit: str = "item",
    costs: Sequence[float] | None = None,
) -> Iterator[Outcome[ItemT, ResultT]]:
    """Yield the outcomes of all items in order, with a progress display.

    Progress counts items, or their `weights` in the given `unit`. `costs` are proportional to the time of each item,
    such as its size in bytes; local processes start the last items in descending order of cost. numpy uses one thread
    per item.

    An error in one item never stops the others: it is the outcome of the item. This includes a full disk
    (`OutputError`), after which the caller decides whether to continue. It also includes items on which workers died
    `ATTEMPTS` times, and items that took longer than `config.item_timeout_s` (`TimeLimitError`).

    Raises:
        ConfigError: If the engine is Ray and it is not installed or its cluster cannot be reached.
    """
    carried = _Limited(function, allowed_gib())
    if config.name == "ray" and items:
        outcomes = on_cluster(
            carried,
            items,
            num_ahead=AHEAD,
            num_processes=config.num_processes,
            address=config.address,
            limit_s=config.item_timeout_s,
        )
    elif config.num_processes > 1 and (len(items) > 1 or (items and has_idle_workers())):
        num_processes = min(config.num_processes, len(items))
        outcomes = _in_processes(carried, items, num_processes, costs, config.item_timeout_s)
    else:
        outcomes = _here(function, items, title, config.item_timeout_s)
    counts = weights or [1] * len(items)
    progress = Progress(sum(counts), title=title, unit=unit, is_shown=len(items) > 1)
    with progress, closing(outcomes):
        for count, outcome in zip(counts, outcomes, strict=True):
            yield outcome
            progress.update(count)


def map_drawn(
    function: Callable[[ItemT], ResultT], draw: Callable[[], ItemT | None], *, config: EngineConfig, attempts: int
) -> Iterator[Outcome[ItemT, ResultT]]:
    """Yield the outcomes of items that are drawn one by one, as soon as a worker can take another one.

    `draw` returns None if there is no further item. At most one item per worker is in progress. Items on which workers
    died `attempts` times have an error as their outcome, as in `map_items`. Local processes yield the outcomes in the
    order in which they end, a Ray cluster in the order of the items.

    Raises:
        ConfigError: If the engine is Ray and it is not installed or its cluster cannot be reached.
    """
    carried, limit_s = _Limited(function, allowed_gib()), config.item_timeout_s
    if config.name == "ray":
        outcomes = on_cluster(
            carried,
            iter(draw, None),
            num_ahead=1,
            num_processes=config.num_processes,
            address=config.address,
            limit_s=limit_s,
            attempts=attempts,
        )
    else:
        outcomes = _drawn_in_processes(carried, draw, config.num_processes, limit_s, attempts)
    with closing(outcomes):
        yield from outcomes


def _drawn_in_processes(
    function: Callable[[ItemT], ResultT],
    draw: Callable[[], ItemT | None],
    num_processes: int,
    limit_s: float | None,
    attempts: int,
) -> Generator[Outcome[ItemT, ResultT], None, None]:
    crew: Crew[ItemT, ResultT] = Crew(function, (), num_processes, limit_s=limit_s, attempts=attempts)
    try:
        while True:
            while crew.num_open < num_processes and (item := draw()) is not None:
                crew.add(item)
            crew.give()
            if not crew.num_open:
                return
            yield from (outcome for _, outcome in crew.outcomes())
    finally:
        crew.end()


@dataclass(frozen=True)
class _Limited(Generic[ItemT, ResultT]):
    """Function that runs with the size limit of the calling process (`medvit.files.limits`), in any worker process.

    The limit is passed with every call, because a worker is reused by later maps, which may have another limit.
    """

    function: Callable[[ItemT], ResultT]
    max_gib: float

    def __call__(self, item: ItemT) -> ResultT:
        with allowing(self.max_gib):
            return self.function(item)


def _here(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], title: str, limit_s: float | None
) -> Generator[Outcome[ItemT, ResultT], None, None]:
    with Watch(title, len(items), limit_s) as watch:
        for number, item in enumerate(items, start=1):
            with one_blas_thread(), watch.of(number):
                outcome = tried(function, item)
            yield outcome


def _in_processes(
    function: Callable[[ItemT], ResultT],
    items: Sequence[ItemT],
    num_processes: int,
    costs: Sequence[float] | None,
    limit_s: float | None,
) -> Generator[Outcome[ItemT, ResultT], None, None]:
    crew = Crew(function, items, num_processes, costs, limit_s)
    done: dict[int, Outcome[ItemT, ResultT]] = {}
    first = 0
    try:
        while first < len(items):
            crew.give(before=first + AHEAD * num_processes)
            done.update(crew.outcomes())
            while first in done:
                yield done.pop(first)
                first += 1
    finally:
        crew.end()
