"""Failures of a transfer that another attempt may mend; all other `SourceError`s are final."""

from __future__ import annotations

from medvit.errors import SourceError


class CutShortError(SourceError):
    """A transfer that ended before its end, or that the server could not make for now."""


class UnreachableError(CutShortError):
    """The server does not answer: the same for all that is asked of it."""


class NotThereError(CutShortError):
    """What was asked for is not there: final for it, and no matter to others."""


class StoppedError(SourceError):
    """Work that ended because other work met an error, which is the one to tell."""

    def __init__(self) -> None:
        super().__init__("stopped, since another transfer met an error")
