"""Errors a user can act upon, by kind.

Every message is one sentence for a person: what was found, where, what was expected, and what to do.
It names no patient: where a file must be named, its pseudonym is.
"""

from typing import ClassVar


class MedvitError(ValueError):
    """Failure that the user can fix; the command line prints it without a traceback."""

    code: ClassVar[str] = "failed"
    """Code for tables (`quarantine.parquet`, `status.csv`)."""


class ConfigError(MedvitError):
    """Invalid configuration or arguments; exit status 2."""

    code = "config"


class DataError(MedvitError):
    """Data that do not meet the requirements of the stage."""

    code = "data"


class NotAnImageError(DataError):
    """File that is not an image: a report, a directory record, a text."""

    code = "not_an_image"


class UnreadableError(DataError):
    """File that should be an image but cannot be read or decoded."""

    code = "unreadable"


class UnsupportedError(DataError):
    """Image of a kind that medvit does not support."""

    code = "unsupported"


class TimeLimitError(DataError):
    """Image or file that took longer than allowed."""

    code = "timeout"


class ConflictError(DataError):
    """Files that contradict each other, so that the correct value is unknown."""

    code = "conflict"


class GeometryError(DataError):
    """Positions, orientations or spacings that do not form one regular grid."""

    code = "geometry"


class SourceError(MedvitError):
    """Server or archive that cannot be reached, refuses access, or does not deliver its own listing."""

    code = "source"


class CheckpointError(MedvitError):
    """Checkpoint or public weights that do not fit the purpose."""

    code = "checkpoint"


class OutputError(MedvitError):
    """Output folder that cannot be used: it exists, is not writable, or the disk is full."""

    code = "output"


class TrainingError(MedvitError):
    """Training that cannot continue, as with a non-finite loss."""

    code = "training"


class TrackingError(MedvitError):
    """MLflow store that is unreachable or refuses a request."""

    code = "tracking"


def unexpected(error: BaseException) -> str:
    """Return the reason to report for an error that is not one of medvit.

    It names the type alone: the text of a library's error may name a file or a patient.
    """
    return f"stopped by an unexpected {type(error).__name__}"
