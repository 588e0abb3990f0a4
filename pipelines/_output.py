"""Standard output and error that survive a closed pipe, as in `medvit evaluate ... | head`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO


class Outliving:
    """Text stream that discards text after its pipe is closed, instead of raising BrokenPipeError.

    A stage may have hours of work left, so a closed pipe must not stop it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; return its length, even if the pipe is closed."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Flush written text."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self) -> None:
        """Redirect the stream to the null device, for Python and for child processes."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def outliving_readers() -> Iterator[None]:
    """Return a context in which writing to a closed standard output or standard error raises no error."""
    out, err = Outliving(sys.stdout), Outliving(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()
