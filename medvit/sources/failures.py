"""Failures of a transfer that a retry may fix; all other `SourceError`s are final."""

from __future__ import annotations

from medvit.errors import SourceError


class CutShortError(SourceError):
    """Transfer that ended early, or that the server could not complete at the moment."""


class UnreachableError(CutShortError):
    """Server that does not answer, which affects all requests to it."""


class NotThereError(CutShortError):
    """Requested object that does not exist; a retry is useless, but other objects are not affected."""


class NotOfferedError(SourceError):
    """Service or kind of object that the server does not offer; other services are not affected."""


class StoppedError(SourceError):
    """Work that was stopped because other work failed; only the other error is reported."""

    def __init__(self) -> None:
        super().__init__("stopped, since another transfer met an error")
