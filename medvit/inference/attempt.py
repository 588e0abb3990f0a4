"""One attempt at a study: errors become outcomes, except those that later studies would meet too."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from medvit.errors import MedvitError, OutputError, unexpected
from medvit.files.atomic import is_of_disk
from medvit.inference.series_selection import NoSeriesError
from medvit.writers import Result, Study

log = logging.getLogger("medvit")

Perform = Callable[[Study, Path], Result]
"""Type of a job: a function that processes a study and writes its outputs into the given folder, which exists and is
empty.
"""


def attempt(perform: Callable[[], Result]) -> Result:
    """Return the result of `perform`; if it raises an error, return a result with status `skipped` or `failed`.

    Raises:
        OutputError: If results cannot be written, for example on a full disk.
        OSError: Likewise.
    """
    try:
        return perform()
    except OutputError:
        raise
    except NoSeriesError as error:
        return Result("skipped", error.code, str(error))
    except MedvitError as error:
        return Result("failed", error.code, str(error))
    except Exception as error:  # one bad study must not stop the others, with any exception
        if is_of_disk(error):
            raise
        log.debug("predict: a study failed", exc_info=True)
        return Result("failed", "unexpected", f"{unexpected(error)}; --debug shows the traceback")
