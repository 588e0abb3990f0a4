"""One attempt at a study: errors become outcomes, except those that later studies would meet too."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvit.engine.outcome import Outcome
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


def result_of(outcome: Outcome[Any, tuple[Result, float]]) -> Result:
    """Return the result that a worker process gave; raise its error if it raised or met one."""
    if outcome.error is not None:
        raise outcome.error
    assert outcome.result is not None
    return outcome.result[0]
