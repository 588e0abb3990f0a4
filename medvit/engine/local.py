"""Processes on this machine that do items for the calling one, each with its next item at hand.

A worker that dies costs nothing but the time of the item it was at: that is tried once more, by another worker, and
what else it was given goes to others. A worker that is at one item for longer than allowed is killed, which a decoder
that hangs cannot prevent; the item has failed and is not tried again.

Not `concurrent.futures.ProcessPoolExecutor`, because one worker that dies ends it, with all that waits (measured: of 40
items, the sixth of which kills its worker, 5 came back). Not `multiprocessing.Pool`, because it waits forever for the
item of a worker that was killed (measured: still after 15 s).
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
"""Items a worker, the last ones of all, of which those that take longest are begun first: so the workers end together.
In a longer row the first one might come last, and nobody saw how far the work has come."""
STARTS = 4
"""Workers in a row that may die before they have begun to work."""
BEGUN = "begun"
"""What a worker says when it has loaded its first item, with all that has to be imported for it, and again when that
took long for a later one: only then the time of the item begins."""
LOADING_S = 0.05
"""An item that takes longer to load waits for modules."""
KILL_S = 5.0
"""How long the end of a killed worker is waited for: one that waits for a network drive may outlive the signal."""


class Crew(Generic[ItemT, ResultT]):
    """Workers that do some items, each at most once at a time."""

    def __init__(
        self,
        function: Callable[[ItemT], ResultT],
        items: Sequence[ItemT],
        num_workers: int,
        costs: Sequence[float] | None = None,
        limit_s: float | None = None,
    ) -> None:
        self._function, self._items, self._num_workers = function, items, num_workers
        self._limit_s = limit_s
        self._costs = costs or [0.0] * len(items)
        self._waiting, self._deaths = deque(range(len(items))), [0] * len(items)
        self._busy: list[_Worker] = []
        self._failed_starts = 0

    def give(self, before: int) -> None:
        """Give items to workers, in order but for the `LAST` ones, up to the one of a number."""
        while (number := self._upcoming(before)) is not None and (worker := self._next()) is not None:
            self._waiting.remove(number)
            worker.give(number, self._function, self._items[number])

    def outcomes(self) -> Iterator[tuple[int, Outcome[ItemT, ResultT]]]:
        """Return the next outcomes that workers have, with the numbers of their items; waits until one says something.

        There are none where a worker has only begun, or an item is to be tried again.

        Raises:
            MedvitError: If workers die as they start.
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
                if self._deaths[number] == ATTEMPTS:
                    yield number, died(self._items[number])
                continue
            if not worker.given:
                self._busy.remove(worker)
                _idle.append(worker)
            yield number, Outcome(self._items[number], *answer)
        yield from self._stop_late()

    def _patience_s(self) -> float | None:
        """How long until the first item reaches the time limit; None without a limit or while nobody works."""
        if self._limit_s is None:
            return None
        spent = [worker.spent_s for worker in self._busy if worker.has_begun]
        return max(0.0, self._limit_s - max(spent)) if spent else None

    def _stop_late(self) -> Iterator[tuple[int, Outcome[ItemT, ResultT]]]:
        """Kill the workers whose item is over the time limit, unless its answer has just come."""
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
        """End the workers that have not done what they were given."""
        for worker in self._busy:
            worker.end()

    def _upcoming(self, before: int) -> int | None:
        """Return the number of the item that comes next, if it is below a number."""
        if not self._waiting or self._waiting[0] >= before:
            return None
        if len(self._waiting) > LAST * self._num_workers:
            return self._waiting[0]
        return max((number for number in self._waiting if number < before), key=self._costs.__getitem__)

    def _next(self) -> _Worker | None:
        """Who gets the next item: a free worker; or, while there are enough for all, one that has no other at hand."""
        if len(self._busy) < self._num_workers:
            self._busy.append(_idle.pop() if _idle else _Worker())
            return self._busy[-1]
        if len(self._waiting) <= self._num_workers:
            return None
        at_their_last = (worker for worker in self._busy if len(worker.given) == 1)
        return min(at_their_last, key=lambda worker: self._costs[worker.given[0]], default=None)

    def _dismiss(self, worker: _Worker) -> None:
        """Give to others what a worker that has ended had at hand."""
        self._busy.remove(worker)
        self._waiting.extendleft(reversed(worker.given))

    def _bury(self, worker: _Worker, number: int) -> None:
        self._dismiss(worker)
        if not worker.has_begun:
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                raise MedvitError(
                    "worker processes die as they start; a script that sets engine.num_processes must call medvit "
                    'under `if __name__ == "__main__":`; or set engine.num_processes=1'
                )
        self._deaths[number] += worker.has_begun
        if self._deaths[number] < ATTEMPTS:
            self._waiting.appendleft(number)


class _Worker:
    """A process that does what it is given one after the other; it ends with the process that started it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process that runs torch threads can hang
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with one_thread_for_children():
            self._process.start()
        theirs.close()
        self.has_begun = False
        """Whether it has said that it has loaded its first item."""
        self.given: deque[int] = deque()
        """The numbers of the items that it has to do, in order."""
        self._since = time.monotonic()

    @property
    def spent_s(self) -> float:
        """Seconds for which it has been at its first item."""
        return time.monotonic() - self._since

    def give(self, number: int, function: Callable[[ItemT], ResultT], item: ItemT) -> None:
        """Send an item to do. That the worker has died is seen when its answer is taken."""
        if not self.given:
            self._since = time.monotonic()
        self.given.append(number)
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send_bytes(pickle.dumps((function, item)))

    def answer(self) -> Any:
        """Return result and error of its first item; none if it has died on it.

        At first, that it has begun to work; before each, the lines that it has logged.
        """
        try:
            answer = self.connection.recv()
            self._since = time.monotonic()
            return answer
        except (EOFError, OSError):  # also within an answer
            self.end()
            return None

    def end(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join(KILL_S)
        self.connection.close()


_idle: list[_Worker] = []
"""Workers of earlier maps: what they have imported serves the next one."""


def has_idle_workers() -> bool:
    """Whether a worker of an earlier map is there, so that even a single item costs no start of a process."""
    return bool(_idle)


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the calling process's to answer
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
    """Lines that a worker has logged, for the calling process: it alone knows the terminal and the log file."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: SimpleQueue[logging.LogRecord] = SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line in plain words, which can pass between processes."""
        self.lines.put(logging.LogRecord(record.name, record.levelno, "", 0, record.getMessage(), None, None))


def _receive(connection: Connection, given: SimpleQueue[bytes | None]) -> None:
    """Take in at once what is sent, so that neither side waits for the other to listen.

    Where that ends, as with the calling process or for lack of memory, the worker ends too.
    """
    with suppress(Exception):
        while True:
            given.put(connection.recv_bytes())
    given.put(None)


def _loaded(given: bytes) -> tuple[Callable[[Any], Any], Any]:
    """Return function and item; in their place, where they cannot be loaded, one that says why."""
    try:
        function, item = pickle.loads(given)
        return function, item
    except Exception as error:  # what cannot be passed between processes may fail in any way
        return _fail, error


def _fail(error: Exception) -> None:
    raise error


def _answer(function: Callable[[Any], Any], item: Any) -> bytes:
    try:
        return pickle.dumps(attempt(function, item))
    except Exception as error:  # as a result does that no other process can take
        return pickle.dumps((None, portable(error)))
