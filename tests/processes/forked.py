"""Work in another process that need not import anything: a fork of the test's own."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import torch

import pipelines.__main__ as command_line


class Forked:
    """A function at work in a fork of this process, in a session and a folder of its own.

    `sys.stdin` and `sys.stdout` of the fork are pipes to `tell` and `line`; its stderr is in `errors`. Its exit status
    is the return value of the function; negative if a signal ended it, as with `subprocess`.
    """

    def __init__(self, work: Callable[..., int | None], *arguments: Any, folder: Path | None = None) -> None:
        (to_fork, self._input), (self._output, from_fork) = os.pipe(), os.pipe()
        self._errors = os.memfd_create("stderr")
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            for place, end in enumerate((to_fork, from_fork, self._errors)):
                os.dup2(end, place)
            os.close(self._input)
            _work(work, arguments, folder)
        os.close(to_fork)
        os.close(from_fork)
        self._lines = os.fdopen(self._output, encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self.send(signal.SIGKILL)
        self.wait()

    @property
    def errors(self) -> str:
        """Return its output on stderr so far."""
        return os.pread(self._errors, os.fstat(self._errors).st_size, 0).decode()

    def line(self) -> str:
        """Return the next line of its output, waiting for it."""
        return self._lines.readline()

    def tell(self, line: str) -> None:
        """Write one line to its standard input."""
        os.write(self._input, f"{line}\n".encode())

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Return its exit status once it has ended."""
        if self.status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if ended else None
        return self.status

    def wait(self, timeout_s: float = 120) -> int:
        """Return its exit status, waiting for its end; kill it and fail where that takes longer than `timeout_s`."""
        end = time.monotonic() + timeout_s
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"process {self.pid} did not end within {timeout_s} s:\n{self.errors}")
            time.sleep(0.005)
        return status


def say(line: str) -> None:
    """Write a line that the other side reads with `Forked.line`."""
    sys.stdout.write(f"{line}\n")


def heard() -> str:
    """Return the next line of the other side."""
    return sys.stdin.readline()


def forked_command(*words: str, folder: Path | None = None) -> Forked:
    """Run `medvit WORDS` in a fork."""
    return Forked(_command, words, folder=folder)


def _command(words: tuple[str, ...]) -> int:
    # Stages that start processes of their own repeat the command line and ask the main module how it was started.
    sys.argv = [command_line.__file__, *words]
    sys.modules["__main__"] = command_line
    return command_line.main(list(words))


def _work(work: Callable[..., int | None], arguments: tuple[Any, ...], folder: Path | None) -> NoReturn:
    status: int | None = 1
    try:
        os.setsid()
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(place, mode, 1, encoding="utf-8", closefd=False) for place, mode in enumerate("rww")
        )
        logging.getLogger().handlers.clear()  # those of pytest, which would keep a command from having its own
        torch.set_num_threads(1)  # threads of OpenMP do not survive a fork: whoever waits for them waits forever
        if folder is not None:
            os.chdir(folder)
        status = work(*arguments)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status or 0)
