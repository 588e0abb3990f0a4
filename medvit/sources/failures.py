"""Failures of a transfer that a retry may fix; all other `SourceError`s are final."""

from __future__ import annotations

from medvit.errors import SourceError


class CutShortError(SourceError):
    """Transfer that ended early, or that the server could not complete at the moment."""


class UnreachableError(CutShortError):
    """The server does not answer: applies to all its requests."""


class NotThereError(CutShortError):
    """The requested object does not exist: final for it, but does not affect others."""


class StoppedError(SourceError):
    """Work that was stopped because other work failed; report that other error."""

    def __init__(self) -> None:
        super().__init__("stopped, since another transfer met an error")
