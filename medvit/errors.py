"""Errors a user can act upon, by kind.

Every message is one sentence for a person: what was found, where, what was expected, and what to do.
It names no patient: where a file must be named, its pseudonym is.
"""

from typing import ClassVar


class MedvitError(ValueError):
    """A failure that the user can mend; the command line prints it without a traceback."""

    code: ClassVar[str] = "failed"
    """One word for tables (`quarantine.parquet`, `status.csv`)."""


class ConfigError(MedvitError):
    """The configuration or the arguments are wrong; exit status 2."""

    code = "config"


class DataError(MedvitError):
    """The data are not what the stage needs."""

    code = "data"


class NotAnImageError(DataError):
    """A file that holds no image: a report, a directory record, a text."""

    code = "not_an_image"


class UnreadableError(DataError):
    """A file that should hold an image but cannot be read or decoded."""

    code = "unreadable"


class UnsupportedError(DataError):
    """An image of a kind that medvit does not take."""

    code = "unsupported"


class TimeLimitError(DataError):
    """An image or file on which work was stopped because it took longer than allowed."""

    code = "timeout"


class ConflictError(DataError):
    """Files that contradict each other, so that it is unknown which is right."""

    code = "conflict"


class GeometryError(DataError):
    """Positions, orientations or spacings that do not make one regular grid."""

    code = "geometry"


class SourceError(MedvitError):
    """A server or an archive that cannot be reached, refuses us, or does not give what it says it has."""

    code = "source"


class CheckpointError(MedvitError):
    """A checkpoint or public weights that do not fit the purpose."""

    code = "checkpoint"


class OutputError(MedvitError):
    """The output folder cannot be used: taken, not writable, or the disk is full."""

    code = "output"


class TrainingError(MedvitError):
    """Training cannot continue, as when the loss is not finite."""

    code = "training"


class TrackingError(MedvitError):
    """The MLflow store is unreachable or refuses a request."""

    code = "tracking"


def unexpected(error: BaseException) -> str:
    """Return the reason to report for an error that is not one of medvit.

    It names the type alone: the text of a library's error may name a file or a patient.
    """
    return f"stopped by an unexpected {type(error).__name__}"
