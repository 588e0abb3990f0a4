"""Map a function over items, in order: in this process, in local processes or on a Ray cluster.

The function must be importable (a top-level function or a frozen dataclass with `__call__`) and its result picklable.
Only so many items are under way at once that memory does not grow with their number. A worker that dies costs nothing
but its item's time: the item is tried once more, and if it kills again, the death is its outcome alone. A failure is
kept with its item.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Literal

from pydantic import model_validator
from tqdm import tqdm

from medvit.config import Config, Count
from medvit.engine.local import Crew
from medvit.engine.outcome import ATTEMPTS, ItemT, Outcome, ResultT, attempt, died, portable, tried
from medvit.errors import ConfigError
from medvit.files.limits import allowed_gib, allowing
from medvit.hardware import one_blas_thread

AHEAD = 32
"""Items a worker that may be done before the next one in order is: more let one slow item hold up nobody."""
CONNECT_TIMEOUT_S = 5.0


class EngineConfig(Config):
    """Where work over many items runs."""

    name: Literal["processes", "ray"] = "processes"
    """Processes on this machine, or a Ray cluster (pip install 'medvit[ray]'), whose machines see the same folders."""
    num_processes: Count = 1
    """Processes on this machine; 1 works in the calling process. A cluster that is joined has its own number."""
    address: str | None = None
    """HOST:PORT of the head of a Ray cluster to join, or auto; none starts one on this machine."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, tree: Any) -> Any:
        return {"name": tree} if isinstance(tree, str) else tree

    @model_validator(mode="after")
    def _address_is_of_ray(self) -> EngineConfig:
        if self.address is not None and self.name != "ray":
            raise ValueError("address=... is for engine.name=ray only; leave it out, or choose ray")
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
    """Outcomes in the order of the items, behind a progress bar with the time left.

    The bar counts items, or their `weights` in some `unit`. Local processes begin those of the last items first that
    have the highest `costs`, in bytes or whatever grows with the time of an item. An error in one item never stops the
    others. A full disk (`OutputError`) is an outcome like any other; the caller decides. An item on which workers died
    `ATTEMPTS` times becomes an outcome with an error. An item is the work of one thread, as far as numpy computes.

    Raises:
        ConfigError: If the engine is Ray and it is not installed or its cluster cannot be reached.
    """
    carried = _Limited(function, allowed_gib())
    if config.name == "ray" and items:
        outcomes = _on_ray(carried, items, config)
    elif config.num_processes > 1 and len(items) > 1:
        outcomes = _in_processes(carried, items, min(config.num_processes, len(items)), costs)
    else:
        outcomes = _here(function, items)
    counts = weights or [1] * len(items)
    bar = tqdm(total=sum(counts), desc=title, unit=unit, disable=len(items) < 2, mininterval=0.5)
    with bar, closing(outcomes):
        for count, outcome in zip(counts, outcomes, strict=True):
            yield outcome
            bar.update(count)


@dataclass(frozen=True)
class _Limited(Generic[ItemT, ResultT]):
    """A function under the limit of the process that asks for it, wherever it works: workers outlive what they do."""

    function: Callable[[ItemT], ResultT]
    max_gib: float

    def __call__(self, item: ItemT) -> ResultT:
        with allowing(self.max_gib):
            return self.function(item)


def _here(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT]
) -> Generator[Outcome[ItemT, ResultT], None, None]:
    for item in items:
        with one_blas_thread():
            outcome = tried(function, item)
        yield outcome


def _in_processes(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], num_processes: int, costs: Sequence[float] | None
) -> Generator[Outcome[ItemT, ResultT], None, None]:
    crew = Crew(function, items, num_processes, costs)
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


def _on_ray(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], config: EngineConfig
) -> Generator[Outcome[ItemT, ResultT], None, None]:
    ray = _joined(config)
    remote = ray.remote(attempt).options(num_cpus=1, max_retries=ATTEMPTS - 1)
    shared = ray.put(function)
    num_ahead = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = iter(items)
    pending = deque((item, remote.remote(shared, item)) for item in islice(waiting, num_ahead))
    try:
        while pending:
            item, reference = pending[0]
            try:
                outcome = Outcome(item, *ray.get(reference))
            except ray.exceptions.RayTaskError as error:  # the item or its result cannot be passed on
                outcome = Outcome(item, error=portable(error.cause))
            except ray.exceptions.RayError:
                outcome = died(item)
            pending.popleft()  # before it is yielded: a task canceled while Ray completes it aborts the process
            yield outcome
            pending.extend((item, remote.remote(shared, item)) for item in islice(waiting, 1))
    finally:
        for _, reference in pending:
            ray.cancel(reference, force=True)


def _joined(config: EngineConfig) -> Any:
    """The module ray, connected to the cluster."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anyone
    try:
        import ray
    except ImportError:
        raise ConfigError("engine.name=ray needs Ray; run: pip install 'medvit[ray]'") from None
    if ray.is_initialized():
        return ray
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if config.address is None:
        ray.init("local", num_cpus=config.num_processes, include_dashboard=False, **quiet)
        return ray
    where = "on this machine" if config.address == "auto" else f"at {config.address}"
    try:
        if config.address != "auto":
            host, _, port = config.address.rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError):
        raise ConfigError(f"no Ray cluster answers {where}; start one with `ray start --head`, or correct it") from None
    try:
        ray.init(config.address, **quiet)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError):
        raise ConfigError(
            f"the Ray cluster {where} cannot be joined; expected one of Ray {ray.__version__} and this Python, and its "
            "token, if it asks for one, in RAY_AUTH_TOKEN or in the file that RAY_AUTH_TOKEN_PATH names"
        ) from None
    return ray
