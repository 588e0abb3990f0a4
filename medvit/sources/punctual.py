"""HTTP answers with limits: on the number of bytes, and on the time without sufficient progress.

The timeout of a socket restarts with every byte; this module also detects a server that sends only a byte now and then.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from medvit.sources.failures import CutShortError

CHUNK_BYTES = 2**16
"""Number of bytes that must arrive within each timeout, unless the answer ends before."""
MAX_ANSWER_BYTES = 2**28
"""Largest answer that is kept in memory, such as a page of search results."""


def chunks(response: requests.Response, timeout_s: float) -> Iterator[bytes]:
    """Yield the body of an answer as it arrives.

    Raises:
        CutShortError: If fewer than `CHUNK_BYTES` arrived within the timeout and the answer did not end.
    """
    with _watched(response.raw.shutdown, timeout_s) as watch:
        for chunk in response.iter_content(CHUNK_BYTES):
            watch.moved = True
            yield chunk


def hold(response: requests.Response, timeout_s: float) -> None:
    """Read the whole body of an answer into memory, so that `response.content` returns it.

    Raises:
        CutShortError: If the answer is longer than `MAX_ANSWER_BYTES`, or too slow.
    """
    parts, num_bytes = [], 0
    for chunk in chunks(response, timeout_s):
        parts.append(chunk)
        num_bytes += len(chunk)
        if num_bytes > MAX_ANSWER_BYTES:
            response.close()
            raise CutShortError(f"an answer of the server is longer than {MAX_ANSWER_BYTES // 2**20} MiB")
    response._content = b"".join(parts)


class _Watch:
    """Thread that ends a transfer that makes too little progress."""

    def __init__(self, end: Any, timeout_s: float) -> None:
        self._end, self._timeout_s = end, timeout_s
        self.over, self.moved, self.is_late = threading.Event(), False, False

    def run(self) -> None:
        while not self.over.wait(self._timeout_s):
            if not self.moved:
                self.is_late = True
                with suppress(Exception):  # it may have just ended
                    self._end()
                return
            self.moved = False


@contextmanager
def _watched(end: Any, timeout_s: float) -> Iterator[_Watch]:
    watch = _Watch(end, timeout_s)
    threading.Thread(target=watch.run, daemon=True).start()
    try:
        yield watch
    except Exception:
        if watch.is_late:
            raise CutShortError(_slow(timeout_s)) from None
        raise
    finally:
        watch.over.set()
    if watch.is_late:
        raise CutShortError(_slow(timeout_s))


def _slow(timeout_s: float) -> str:
    rate = f"less than {CHUNK_BYTES // 2**10} KiB in {timeout_s:g} s"
    return f"the server sent {rate}; raise timeout_s if it is slow"


class _Punctual:
    """Connection that requires the complete headers of an answer within the timeout."""

    sock: Any
    timeout: Any

    def getresponse(self) -> Any:
        limit = self.timeout if isinstance(self.timeout, int | float) else None
        if limit is None or self.sock is None:
            return super().getresponse()  # type: ignore[misc]
        with _watched(_ender(self.sock), limit + 1.0):  # the socket detects silence
            return super().getresponse()  # type: ignore[misc]


def _ender(sock: Any) -> Any:
    return lambda: sock.shutdown(socket.SHUT_RDWR)


class _PlainConnection(_Punctual, HTTPConnection):
    pass


class _SecureConnection(_Punctual, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class PunctualAdapter(HTTPAdapter):
    """Transport adapter for the library requests, whose connections enforce the timeout for complete headers."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Create the connection pools."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        """Create the connection pools through a proxy."""
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
        return manager
