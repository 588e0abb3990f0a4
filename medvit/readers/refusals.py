"""How a failure at the door becomes a refusal that names no patient and no path."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medvit.errors import MedvitError, UnreadableError
from medvit.samples import Refusal


def refusal(files: Sequence[Path], error: MedvitError) -> Refusal:
    """The files that an error is about, with its code and its sentence."""
    return Refusal(tuple(files), error.code, str(error))


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turns whatever a decoder raises into one sentence about `what`; our own errors pass unchanged.

    Decoders quote paths and header values in errors and warnings; both may name a patient, so neither gets out.

    Raises:
        UnreadableError: In place of any error that is not ours.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MedvitError:
        raise
    except FileNotFoundError:
        raise UnreadableError(f"{what} cannot be read: its file is gone; find the files again") from None
    except MemoryError:
        raise UnreadableError(f"{what} does not fit into memory; use a machine with more, or leave it out") from None
    except Exception as error:
        kind = type(error).__name__
        raise UnreadableError(f"{what} cannot be decoded ({kind}); the file is damaged or not what it claims") from None
