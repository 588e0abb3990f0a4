"""Warning about an item that takes too long in the calling process, where nothing can stop it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Self

log = logging.getLogger("medvit")


class Watch:
    """Monitor that warns once about each item that is in progress for longer than `limit_s`.

    It runs in a thread, which is started only if there is a limit. There is one thread for all items, because a timer
    for each item costs 0.2 ms per item (measured), and this thread costs less than 0.01 ms.
    """

    def __init__(self, title: str, num_items: int, limit_s: float | None) -> None:
        self._title, self._num_items, self._limit_s = title, num_items, limit_s
        self._at_work: tuple[int, float] | None = None
        self._is_over = Event()

    def __enter__(self) -> Self:
        if self._limit_s is not None:
            Thread(target=self._run, args=(self._limit_s,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """Return a context in which the item with this number (counted from 1) is monitored."""
        self._at_work = (number, time.monotonic())
        try:
            yield
        finally:
            self._at_work = None

    def _run(self, limit_s: float) -> None:
        warned, left_s = 0, limit_s
        while not self._is_over.wait(left_s):
            number, since = self._at_work or (0, time.monotonic())
            left_s = since + limit_s - time.monotonic()
            if left_s <= 0 and number != warned:
                self._warn(number, limit_s)
                warned = number
            left_s = left_s if left_s > 0 else limit_s

    def _warn(self, number: int, limit_s: float) -> None:
        log.warning(
            "%s: item %d of %d takes longer than engine.item_timeout_s=%g allows; in the calling process it cannot be "
            "stopped; with engine.num_processes=2 or more, it would be stopped without affecting other items",
            self._title,
            number,
            self._num_items,
            limit_s,
        )
