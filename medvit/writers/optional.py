"""Optional outputs of a result: if one cannot be written, the others continue, and the result states the reason."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from medvit.errors import MedvitError, OutputError
from medvit.files.atomic import is_of_disk

log = logging.getLogger("medvit")

LACKS = "there is no"
"""Beginning of a note on an output that was not written."""


def write_optional(what: str, path: Path, write: Callable[[], Sequence[str] | None]) -> list[str]:
    """Write an output to a path (file or folder), and return the notes of its writer.

    If the output cannot be written, return the reason instead. `what` names the output.

    Raises:
        OutputError: If nothing can be written, as on a full disk.
        OSError: Likewise.
    """
    try:
        return list(write() or ())
    except OutputError:
        raise
    except MedvitError as error:
        reason = str(error)
    except Exception as error:
        if is_of_disk(error):
            raise
        log.debug("predict: there is no %s", what, exc_info=True)
        # Only the type: the text of a library's error may name a file or a patient.
        reason = f"its writer stopped with an unexpected {type(error).__name__} (--debug shows the traceback)"
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return [f"{LACKS} {what}: {reason}"]
