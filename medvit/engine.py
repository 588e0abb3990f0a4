"""Maps work over items: in this process, in several, or on a Ray cluster; in order, each failure kept with its item.

The function must be importable (a top-level function or a frozen dataclass with `__call__`) and its result picklable.
Only so many items are under way at once that memory does not grow with their number. A worker that dies costs nothing
but its item's time: the item is tried once more, and if it kills again, the death is its outcome alone.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, Literal, TypeVar

from pydantic import model_validator
from tqdm import tqdm

from medvit.config import Config, Count
from medvit.errors import ConfigError, MedvitError
from medvit.hardware import one_blas_thread, one_thread_for_children

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

AHEAD = 32
"""Items a worker that may be done before the next one in order is: more let one slow item hold up nobody."""
ATTEMPTS = 2
"""How often an item is tried on which workers die."""
STARTS = 4
"""Workers in a row that may die before they have begun to work."""
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


@dataclass(frozen=True)
class Outcome(Generic[ItemT, ResultT]):
    """What came of one item: a result, or the error that stopped it."""

    item: ItemT
    result: ResultT | None = None
    error: Exception | None = None


def map_items(
    function: Callable[[ItemT], ResultT],
    items: Sequence[ItemT],
    *,
    config: EngineConfig,
    title: str,
    weights: Sequence[int] | None = None,
    unit: str = "item",
) -> Iterator[Outcome[ItemT, ResultT]]:
    """Outcomes in the order of the items, behind a progress bar with the time left.

    The bar counts items, or their `weights` in some `unit`. An error in one item never stops the others. A full disk
    (`OutputError`) is an outcome like any other; the caller decides. An item on which workers died `ATTEMPTS` times
    becomes an outcome with an error. An item is the work of one thread, as far as numpy computes.

    Raises:
        ConfigError: If the engine is Ray and it is not installed or its cluster cannot be reached.
    """
    if config.name == "ray" and items:
        outcomes = _on_ray(function, items, config)
    elif config.num_processes > 1 and len(items) > 1:
        outcomes = _in_processes(function, items, min(config.num_processes, len(items)))
    else:
        outcomes = _here(function, items)
    counts = weights or [1] * len(items)
    bar = tqdm(total=sum(counts), desc=title, unit=unit, disable=len(items) < 2, mininterval=0.5)
    with bar, closing(outcomes):
        for count, outcome in zip(counts, outcomes, strict=True):
            yield outcome
            bar.update(count)


def _try(function: Callable[[ItemT], ResultT], item: ItemT) -> Outcome[ItemT, ResultT]:
    try:
        return Outcome(item, result=function(item))
    except Exception as error:  # isolation is this function's purpose: the caller reports each error by kind
        return Outcome(item, error=error)


def _died(item: ItemT) -> Outcome[ItemT, Any]:
    message = (
        f"the worker process died on it {ATTEMPTS} times, as for lack of memory or in a decoder; "
        "lower engine.num_processes"
    )
    return Outcome(item, error=MedvitError(message))


def _here(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT]
) -> Generator[Outcome[ItemT, ResultT], None, None]:
    for item in items:
        with one_blas_thread():
            outcome = _try(function, item)
        yield outcome


def _attempt(function: Callable[[ItemT], ResultT], item: ItemT) -> tuple[ResultT | None, Exception | None]:
    outcome = _try(function, item)
    if outcome.error is not None:
        return None, _portable(outcome.error)
    return outcome.result, None


def _portable(error: Exception) -> Exception:
    """The error, if another process can take it; else one of ours that names its kind."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever pickling of a library's error raises, the answer is the same
        return MedvitError(f"stopped by an unexpected {type(error).__name__}")
    return error


class _Worker:
    """A process that does one item at a time; it ends with the process that started it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process that runs torch threads can hang
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with one_thread_for_children():
            self._process.start()
        theirs.close()
        self.has_begun = False
        """Whether it has said that it is ready to work."""

    def give(self, function: Callable[[ItemT], ResultT], item: ItemT) -> None:
        """Sends an item to do. That the worker has died is seen when its answer is taken."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send_bytes(pickle.dumps((function, item)))

    def answer(self) -> Any:
        """Result and error of the item it was given; none if it has died on it. At first, that it has begun to work."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.end()
            return None

    def end(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the calling process's to answer
    given: SimpleQueue[bytes | None] = SimpleQueue()
    Thread(target=_receive, args=(connection, given), daemon=True).start()
    with suppress(OSError):  # the calling process has ended
        connection.send(BEGUN)
        while (one := given.get()) is not None:
            connection.send_bytes(_answer(one))


def _receive(connection: Connection, given: SimpleQueue[bytes | None]) -> None:
    """Takes in what is sent at once, so that neither side ever waits for the other to listen."""
    with suppress(EOFError, OSError):
        while True:
            given.put(connection.recv_bytes())
    given.put(None)


def _answer(given: bytes) -> bytes:
    try:
        function, item = pickle.loads(given)
        return pickle.dumps(_attempt(function, item))
    except Exception as error:  # what cannot be passed between processes may fail in any way
        return pickle.dumps((None, _portable(error)))


BEGUN = "begun"

_idle: list[_Worker] = []
"""Workers of earlier maps: what they have imported serves the next one."""


def _in_processes(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], num_processes: int
) -> Generator[Outcome[ItemT, ResultT], None, None]:
    waiting, deaths = deque(range(len(items))), [0] * len(items)
    done: dict[int, Outcome[ItemT, ResultT]] = {}
    busy: dict[_Worker, deque[int]] = {}
    first = failed_starts = 0
    try:
        while first < len(items):
            while waiting and waiting[0] < first + AHEAD * num_processes:
                worker = _next_to_give(busy, num_processes, len(waiting))
                if worker is None:
                    break
                index = waiting.popleft()
                busy.setdefault(worker, deque()).append(index)
                worker.give(function, items[index])
            for worker, answer in _answers(list(busy)):
                if answer == BEGUN:
                    worker.has_begun, failed_starts = True, 0
                    continue
                index = busy[worker].popleft()
                if answer is not None:
                    if not busy[worker]:
                        del busy[worker]
                        _idle.append(worker)
                    done[index] = Outcome(items[index], *answer)
                    continue
                waiting.extendleft(reversed(busy.pop(worker)))
                failed_starts += not worker.has_begun
                deaths[index] += worker.has_begun
                if failed_starts == STARTS:
                    raise MedvitError(
                        "worker processes die as they start; a script that sets engine.num_processes must call medvit "
                        'under `if __name__ == "__main__":`; or set engine.num_processes=1'
                    )
                if deaths[index] < ATTEMPTS:
                    waiting.appendleft(index)
                else:
                    done[index] = _died(items[index])
            while first in done:
                yield done.pop(first)
                first += 1
    finally:
        for worker in busy:
            worker.end()


def _next_to_give(busy: Mapping[_Worker, Sequence[int]], num_processes: int, num_waiting: int) -> _Worker | None:
    """Who gets the next item: a free worker; or, while there is enough for all, one that has no other one ahead."""
    if len(busy) < num_processes:
        return _idle.pop() if _idle else _Worker()
    if num_waiting <= num_processes:
        return None
    return next((worker for worker, given in busy.items() if len(given) == 1), None)


def _answers(workers: Sequence[_Worker]) -> Iterator[tuple[_Worker, Any]]:
    ready = set(wait([worker.connection for worker in workers]))
    return ((worker, worker.answer()) for worker in workers if worker.connection in ready)


def _on_ray(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], config: EngineConfig
) -> Generator[Outcome[ItemT, ResultT], None, None]:
    ray = _joined(config)
    attempt = ray.remote(_attempt).options(num_cpus=1, max_retries=ATTEMPTS - 1)
    shared = ray.put(function)
    num_ahead = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = iter(items)
    pending = deque((item, attempt.remote(shared, item)) for item in islice(waiting, num_ahead))
    try:
        while pending:
            item, reference = pending[0]
            try:
                yield Outcome(item, *ray.get(reference))
            except ray.exceptions.RayTaskError as error:  # the item or its result cannot be passed on
                yield Outcome(item, error=_portable(error.cause))
            except ray.exceptions.RayError:
                yield _died(item)
            pending.popleft()
            pending.extend((item, attempt.remote(shared, item)) for item in islice(waiting, 1))
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
    try:
        if config.address != "auto":
            host, _, port = config.address.rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
        ray.init(config.address, **quiet)
    except (OSError, ValueError):
        where = "on this machine" if config.address == "auto" else f"at {config.address}"
        raise ConfigError(f"no Ray cluster answers {where}; start one with `ray start --head`, or correct it") from None
    return ray
