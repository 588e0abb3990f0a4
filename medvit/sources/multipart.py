"""Splitting of a multipart body (RFC 2046 5.1) as it arrives, so that no whole part is kept in memory.

python-multipart is not used, because it refuses a preamble and white space after a boundary, which RFC 2046 allows
(checked with version 0.0.34, which is about as fast: 840 MiB/s compared with 770 MiB/s here).
"""

from __future__ import annotations

from collections.abc import Iterable
from email.message import Message
from typing import Protocol

from medvit.sources.failures import CutShortError

MAX_HEAD_BYTES = 2**16
CRLF = b"\r\n"


class Sink(Protocol):
    """Receiver of the content of parts."""

    def begin(self) -> None:
        """Begin a part."""

    def write(self, content: bytes) -> None:
        """Append bytes to the current part."""

    def end(self) -> None:
        """Complete the current part."""


def boundary_of(content_type: str) -> bytes | None:
    """Return the boundary in a Content-Type header; None if the type is not multipart."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    return boundary.encode() if boundary and message.get_content_maintype() == "multipart" else None


def split(chunks: Iterable[bytes], boundary: bytes, sink: Sink) -> None:
    """Pass the content of every part to the sink, without the headers of the part.

    Raises:
        CutShortError: If the body ends before its closing boundary; the unfinished part is never completed.
    """
    splitter = _Splitter(boundary, sink)
    for chunk in chunks:
        splitter.feed(chunk)
        if splitter.state == "done":  # an epilogue has no meaning, and may be endless
            return
    if splitter.state != "done":
        raise CutShortError("the answer of the server ended before its closing boundary")


class _Splitter:
    def __init__(self, boundary: bytes, sink: Sink) -> None:
        self._delimiter, self._sink = CRLF + b"--" + boundary, sink
        self._buffer = bytearray(CRLF)  # so that a boundary at the very beginning is like any other
        self.state = "preamble"
        self._num_before = 0

    def feed(self, chunk: bytes) -> None:
        self._buffer += chunk
        while self._step():
            pass

    def _step(self) -> bool:
        """Process the next step of the body; return False if that requires more bytes."""
        if self.state == "done":
            self._buffer.clear()
            return False
        steps = {"preamble": self._content, "body": self._content, "boundary": self._boundary, "head": self._head}
        return steps[self.state]()

    def _content(self) -> bool:
        end = self._buffer.find(self._delimiter)
        # A possible beginning of a boundary is kept until the rest arrives.
        num_sure = end if end >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        if self.state == "body" and num_sure:
            self._sink.write(bytes(self._buffer[:num_sure]))
        if self.state == "preamble":
            self._num_before += num_sure
            if self._num_before > MAX_HEAD_BYTES:
                raise CutShortError("the answer is declared as multipart but has no boundary")
        if end < 0:
            del self._buffer[:num_sure]
            return False
        del self._buffer[: end + len(self._delimiter)]
        if self.state == "body":
            self._sink.end()
        self.state = "boundary"
        return True

    def _boundary(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer.startswith(b"--"):
            self.state = "done"
            return True
        end = self._buffer.find(CRLF)
        if end < 0:
            self._refuse_long_head()
            return False
        del self._buffer[:end]  # white space may follow a boundary; the line break begins the head
        self.state = "head"
        return True

    def _head(self) -> bool:
        end = self._buffer.find(CRLF + CRLF)
        if end < 0:
            self._refuse_long_head()
            return False
        del self._buffer[: end + 4]
        self._sink.begin()
        self.state = "body"
        return True

    def _refuse_long_head(self) -> None:
        if len(self._buffer) > MAX_HEAD_BYTES:
            raise CutShortError("the answer of the server has a part whose headers do not end")
