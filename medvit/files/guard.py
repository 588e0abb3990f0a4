"""Conversion of decoder errors to refusals without patient names and paths."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from medvit.errors import MedvitError, UnreadableError
from medvit.records import Refusal


def refusal(files: Sequence[Path], error: MedvitError) -> Refusal:
    """Return the refusal of these files, with the code and the message of an error."""
    return Refusal(tuple(files), error.code, str(error))


def decoding(what: str) -> AbstractContextManager[None]:
    """Return a context that converts any error of a decoder to one sentence about `what`.

    Errors and warnings of decoders are not passed on, because they may quote paths and header values, which may name a
    patient. Errors of medvit are passed on unchanged.

    Raises:
        UnreadableError: In place of any error that is not medvit's own.
    """
    return _Decoding(what)


@contextmanager
def silence() -> Iterator[None]:
    """Return a context in which all warnings are ignored.

    Enter this context once around a loop over many small files, because entering it takes as long as reading a header.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_SILENT = ("ignore", None, Warning, None, 0)
"""The filter that ignores all warnings, as in `warnings.filters`."""


class _Decoding(AbstractContextManager[None]):
    def __init__(self, what: str) -> None:
        self._what, self._silence = what, None if warnings.filters[:1] == [_SILENT] else silence()

    def __enter__(self) -> None:
        if self._silence is not None:
            self._silence.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._silence is not None:
            self._silence.__exit__(None, None, None)
        if isinstance(error, Exception) and not isinstance(error, MedvitError):
            raise UnreadableError(_sentence(self._what, error)) from None


def _sentence(what: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{what} cannot be read: its file is gone; run the command again"
    if isinstance(error, MemoryError):
        return f"{what} does not fit into memory; use a machine with more, or exclude it"
    return f"{what} cannot be decoded ({type(error).__name__}); the file is damaged or not what it claims"
