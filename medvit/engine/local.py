"""Pool of local worker processes. In addition to its current item, each worker has its next item queued.

If a worker dies, only its current item is affected: another worker tries it once more, and the queued item is given to
another worker. A worker that exceeds the time limit is killed, even if its decoder hangs; its item fails and is not
tried again.

`concurrent.futures.ProcessPoolExecutor` is not used, because one worker that dies ends the pool with all waiting items
(measured: of 40 items, the sixth of which kills its worker, 5 were returned). `multiprocessing.Pool` is not used,
because it waits forever for the item of a killed worker (measured: it was still waiting after 15 s).
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic

from medvit.engine.outcome import ATTEMPTS, ItemT, Outcome, ResultT, attempt, died, late, portable
from medvit.errors import MedvitError
from medvit.hardware import one_thread_for_children

log = logging.getLogger("medvit")

LAST = 4
"""Number of last items per worker that start in descending order of cost, so that the workers finish together. With a
larger number, the item that must be returned first might be processed last, which would hide the progress.
"""
STARTS = 4
"""Maximum number of consecutive workers that die before they begin to work."""
BEGUN = "begun"
"""Message of a worker after loading its first item with all imports, and after a slow load of a later item. The time
limit of the item starts with this message.
"""
LOADING_S = 0.05
"""Time in seconds above which loading an item counts as slow: the worker probably imported modules."""
KILL_S = 5.0
"""Seconds to wait for the end of a killed worker: a worker that is blocked on a network drive may outlive the signal.
"""


class Crew(Generic[ItemT, ResultT]):
    """Worker processes for a list of items; no item is run by two workers at once."""

    def __init__(
        self,
        function: Callable[[ItemT], ResultT],
        items: Sequence[ItemT],
        num_workers: int,
        costs: Sequence[float] | None = None,
        limit_s: float | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self._function, self._items, self._num_workers = function, list(items), num_workers
        self._limit_s, self._attempts = limit_s, attempts
        self._costs = list(costs or [0.0] * len(items))
        self._waiting, self._deaths = deque(range(len(items))), [0] * len(items)
        self._busy: list[_Worker] = []
        self._failed_starts = 0

    @property
    def num_open(self) -> int:
        """Number of items without an outcome."""
        return len(self._waiting) + sum(len(worker.given) for worker in self._busy)

    def add(self, item: ItemT) -> None:
        """Add an item, which becomes the last one."""
        self._waiting.append(len(self._items))
        self._items.append(item)
        self._costs.append(0.0)
        self._deaths.append(0)

    def give(self, before: int | None = None) -> None:
        """Assign waiting items (with numbers below `before`) to workers, as long as a worker can take an item.

        Items are assigned in order. When at most `LAST` items per worker remain, the most expensive one is assigned
        first.
        """
        before = len(self._items) if before is None else before
        while (number := self._upcoming(before)) is not None and (worker := self._next()) is not None:
            self._waiting.remove(number)
            worker.give(number, self._function, self._items[number])

    def outcomes(self) -> Iterator[tuple[int, Outcome[ItemT, ResultT]]]:
        """Wait for messages from workers, and yield (number of the item, outcome) for each item that ended.

        Messages of workers that have just started do not yield an outcome; nor do items that are to be tried again.

        Raises:
            MedvitError: If workers die at startup.
        """
        ready = set(wait([worker.connection for worker in self._busy], self._patience_s()))
        for worker in [worker for worker in self._busy if worker.connection in ready]:
            answer = worker.answer()
            if answer == BEGUN:
                worker.has_begun, self._failed_starts = True, 0
                continue
            if isinstance(answer, logging.LogRecord):
                if log.isEnabledFor(answer.levelno):
                    log.handle(answer)
                continue
            number = worker.given.popleft()
            if answer is None:
                self._bury(worker, number)
                if self._deaths[number] == self._attempts:
                    yield number, died(self._items[number], self._attempts)
                continue
            if not worker.given:
                self._busy.remove(worker)
                _idle.append(worker)
            yield number, Outcome(self._items[number], *answer)
        yield from self._stop_late()

    def _patience_s(self) -> float | None:
        """Return the seconds until a running item reaches the time limit; None without a limit or a running item."""
        if self._limit_s is None:
            return None
        spent = [worker.spent_s for worker in self._busy if worker.has_begun]
        return max(0.0, self._limit_s - max(spent)) if spent else None

    def _stop_late(self) -> Iterator[tuple[int, Outcome[ItemT, ResultT]]]:
        """Kill the workers whose item exceeded the time limit without a result.

        Yield the number and the outcome of each of these items.
        """
        limit_s = self._limit_s
        if limit_s is None:
            return
        for worker in [one for one in self._busy if one.has_begun and one.spent_s >= limit_s]:
            if not worker.connection.poll():
                number = worker.given.popleft()
                worker.end()
                self._dismiss(worker)
                yield number, late(self._items[number], limit_s)

    def end(self) -> None:
        """End the workers that have unfinished items."""
        for worker in self._busy:
            worker.end()

    def _upcoming(self, before: int) -> int | None:
        """Return the number of the next item to start; None if no item with a number below `before` is waiting."""
        if not self._waiting or self._waiting[0] >= before:
            return None
        if len(self._waiting) > LAST * self._num_workers:
            return self._waiting[0]
        return max((number for number in self._waiting if number < before), key=self._costs.__getitem__)

    def _next(self) -> _Worker | None:
        """Return the worker for the next item; None if no worker can take it.

        This is a free worker. If all workers are busy but many items remain, it is a busy worker without a queued item.
        """
        if len(self._busy) < self._num_workers:
            self._busy.append(_idle.pop() if _idle else _Worker())
            return self._busy[-1]
        if len(self._waiting) <= self._num_workers:
            return None
        at_their_last = (worker for worker in self._busy if len(worker.given) == 1)
        return min(at_their_last, key=lambda worker: self._costs[worker.given[0]], default=None)

    def _dismiss(self, worker: _Worker) -> None:
        """Assign the queued items of a worker that ended to other workers."""
        self._busy.remove(worker)
        self._waiting.extendleft(reversed(worker.given))

    def _bury(self, worker: _Worker, number: int) -> None:
        self._dismiss(worker)
        if not worker.has_begun:
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                raise MedvitError(
                    "worker processes die at startup; a script that sets engine.num_processes must call medvit "
                    'under `if __name__ == "__main__":`; or set engine.num_processes=1'
                )
        self._deaths[number] += worker.has_begun
        if self._deaths[number] < self._attempts:
            self._waiting.appendleft(number)


class _Worker:
    """Worker process that runs its items one after the other; it ends with the process that started it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process that runs torch threads can hang
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with one_thread_for_children():
            self._process.start()
        theirs.close()
        self.has_begun = False
        """Whether the worker has loaded its first item."""
        self.given: deque[int] = deque()
        """Indices of the worker's items, in order."""
        self._since = time.monotonic()

    @property
    def spent_s(self) -> float:
        """Seconds since the worker began its current item."""
        return time.monotonic() - self._since

    def give(self, number: int, function: Callable[[ItemT], ResultT], item: ItemT) -> None:
        """Send an item to the worker. If the worker is dead, this is noticed only when its result is awaited."""
        if not self.given:
            self._since = time.monotonic()
        self.given.append(number)
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send_bytes(pickle.dumps((function, item)))

    def answer(self) -> Any:
        """Return the worker's next message; None if the worker died.

        A message is `BEGUN`, a log record, or the result and error of the current item.
        """
        try:
            answer = self.connection.recv()
            self._since = time.monotonic()
            return answer
        except (EOFError, OSError):  # also within an answer
            self.end()
            return None

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join(KILL_S)
        self.connection.close()


_idle: list[_Worker] = []
"""Idle workers of earlier calls of `map_items`. They are reused, because they have imported the modules that items
need.
"""


def has_idle_workers() -> bool:
    """Return whether a worker of an earlier call of `map_items` is idle.

    If there is one, even a single item is processed in an idle worker, because no process has to be started for it.
    """
    return bool(_idle)


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the calling process handles interrupts
    logged = _Collected()
    log.addHandler(logged)
    log.setLevel(logging.INFO)
    log.propagate = False
    given: SimpleQueue[bytes | None] = SimpleQueue()
    Thread(target=_receive, args=(connection, given), daemon=True).start()
    has_begun = False
    with suppress(OSError):  # the calling process has ended
        while (one := given.get()) is not None:
            since = time.monotonic()
            function, item = _loaded(one)
            if not has_begun or time.monotonic() - since > LOADING_S:
                connection.send(BEGUN)
                has_begun = True
            answer = _answer(function, item)
            while not logged.lines.empty():
                connection.send(logged.lines.get())
            connection.send_bytes(answer)


class _Collected(logging.Handler):
    """Log handler that sends a worker's lines to the calling process, which knows the terminal and the log file."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: SimpleQueue[logging.LogRecord] = SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line as plain text, which can be pickled."""
        self.lines.put(logging.LogRecord(record.name, record.levelno, "", 0, record.getMessage(), None, None))


def _receive(connection: Connection, given: SimpleQueue[bytes | None]) -> None:
    """Receive messages as soon as they arrive, which keeps both sides from blocking when they send.

    If no more messages can be received, None is put into `given`, and the worker ends. This happens if the calling
    process ended or memory is exhausted.
    """
    with suppress(Exception):
        while True:
            given.put(connection.recv_bytes())
    given.put(None)


def _loaded(given: bytes) -> tuple[Callable[[Any], Any], Any]:
    """Return the unpickled function and item.

    If they cannot be unpickled, return a function that raises the error, and the error.
    """
    try:
        function, item = pickle.loads(given)
        return function, item
    except Exception as error:  # unpickling may fail in any way
        return _fail, error


def _fail(error: Exception) -> None:
    raise error


def _answer(function: Callable[[Any], Any], item: Any) -> bytes:
    try:
        return pickle.dumps(attempt(function, item))
    except Exception as error:  # such as a result that cannot be pickled
        return pickle.dumps((None, portable(error)))
