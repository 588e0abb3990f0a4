"""Log lines with date and time, on the terminal and in the log file of every artifact.

The log file receives only the messages of medvit: warnings of libraries and tracebacks may name a patient or a file.
"""

from __future__ import annotations

import copy
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG = "medvit.log"
"""Name of the log file in the folder of an artifact."""
STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?=[A-Z]+ )", re.MULTILINE)
"""Date and local time that begin a line."""

log = logging.getLogger("medvit")


class DatedFormatter(logging.Formatter):
    """Formatter of terminal and log file: date, local time, severity and message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")


class TerminalHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Handler that writes to stderr, above the progress bar if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(DatedFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        bars = sys.modules.get("tqdm")
        if bars is None or not self.stream.isatty():
            super().emit(record)
            return
        with bars.tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class LogFile(logging.FileHandler):
    """Handler that appends messages of severity INFO and above to the log file of an artifact, without tracebacks."""

    def __init__(self, path: Path, *, mode: int = 0o666) -> None:
        path.touch(mode)
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setLevel(logging.INFO)
        self.setFormatter(DatedFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        plain = copy.copy(record)
        plain.exc_info = plain.exc_text = plain.stack_info = None
        super().emit(plain)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (as logging calls it)
        """Ignore a line that cannot be written.

        On a full disk, the stage fails with the reason when it writes its next file.
        """


def log_to_terminal() -> None:
    """Show the log on stderr, unless the program has configured logging itself."""
    logging.basicConfig(level=logging.INFO, handlers=[TerminalHandler()])


@contextmanager
def log_to_file(path: Path, *, mode: int = 0o666) -> Iterator[None]:
    """Return a context in which the log of medvit is appended to a file, created with the permissions `mode`.

    The file receives messages of severity INFO and above; other handlers are unchanged.
    """
    before, shown = log.level, log.getEffectiveLevel()
    handler, own = LogFile(path, mode=mode), []
    if not log.hasHandlers() and logging.lastResort is not None:
        own.append(logging.lastResort)  # which Python no longer uses once there is a handler
    others = [*own, *log.handlers, *logging.getLogger().handlers] if shown > logging.INFO else []

    def as_before(record: logging.LogRecord) -> bool:
        return record.name != log.name or record.levelno >= shown

    for other in others:
        other.addFilter(as_before)
    log.setLevel(min(logging.INFO, shown))
    own.append(handler)
    for one in own:
        log.addHandler(one)
    try:
        yield
    finally:
        for one in own:
            log.removeHandler(one)
        handler.close()
        log.setLevel(before)
        for other in others:
            other.removeFilter(as_before)


def note(message: str, *values: object, level: int = logging.INFO) -> None:
    """Write a line to the open log files only, not to the terminal."""
    record = log.makeRecord(log.name, level, "", 0, message, values, None)
    for handler in log.handlers:
        if isinstance(handler, LogFile):
            handler.handle(record)


def quiet_libraries(*names: str) -> None:
    """Keep two kinds of library messages out of the log: start-up messages, and warnings fixed in later versions.

    All other warnings are shown.
    """
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"monai\.")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\.")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
