"""Error classes, by kind of failure, for errors that the user can fix.

Every message is one sentence: what was found, where, what was expected, and what to do. Messages never name a patient;
a file that must be named is identified by its pseudonym.
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
    """Data that do not meet the requirements of a stage."""

    code = "data"


class NotAnImageError(DataError):
    """File that is not an image, such as a report, a directory record or a text file."""

    code = "not_an_image"


class UnreadableError(DataError):
    """File that should be an image but cannot be read or decoded."""

    code = "unreadable"


class UnsupportedError(DataError):
    """Image of a kind that medvit does not support."""

    code = "unsupported"


class TimeLimitError(DataError):
    """Image or file that took longer to process than the time limit."""

    code = "timeout"


class CrashError(DataError):
    """Image or study on which processes ended, as for lack of memory or in a decoder."""

    code = "crashed"


class MemoryShortError(DataError):
    """Image that needs more memory than is free."""

    code = "memory"


class ConflictError(DataError):
    """Files that contradict each other, so that the correct value cannot be determined."""

    code = "conflict"


class GeometryError(DataError):
    """Positions, orientations or spacings that do not form one regular grid."""

    code = "geometry"


class SourceError(MedvitError):
    """Server or archive that is unreachable, refuses access, or fails to deliver files that it lists."""

    code = "source"


class CheckpointError(MedvitError):
    """Checkpoint or public weights that do not suit the stage or the model."""

    code = "checkpoint"


class OutputError(MedvitError):
    """Output folder that cannot be used: it exists, is not writable, or the disk is full."""

    code = "output"


class NonFiniteError(DataError):
    """Output of a model that is not finite, as after a training that diverged."""


class TrainingError(MedvitError):
    """Training that cannot continue, for example because of a non-finite loss."""

    code = "training"


class TrackingError(MedvitError):
    """MLflow store that is unreachable or refuses a request."""

    code = "tracking"


def unexpected(error: BaseException) -> str:
    """Return the reason to report for an error that is not a `MedvitError`: the name of its type.

    The message of the error is excluded, because messages of libraries may name a file or a patient.
    """
    return f"stopped by an unexpected {type(error).__name__}"
