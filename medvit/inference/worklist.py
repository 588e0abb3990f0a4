"""Work list of a batch: outcomes of all studies, written to disk after each study, so that a run can be resumed.

`status.csv` has one line per study, `predictions.csv` one line per class of a series. Both are replaced atomically
after each study.
"""

from __future__ import annotations

import csv
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvit.artifacts import STATUS
from medvit.errors import MedvitError, OutputError, unexpected
from medvit.files.atomic import is_of_disk, write_text
from medvit.files.spreadsheets import csv_text
from medvit.inference.series_selection import NoSeriesError
from medvit.progress import with_progress
from medvit.writers import Finding, Result, Status, Study
from medvit.writers.optional import LACKS

log = logging.getLogger("medvit")

PREDICTIONS = "predictions.csv"
STATUS_COLUMNS = ("study", "status", "code", "reason", "seconds", "outputs")
PREDICTION_COLUMNS = (
    "study",
    "series",
    "class",
    "probability",
    "volume_ml",
    "num_voxels",
    "value",
    "model",
    "operating_point",
    "threshold",
    "call",
)

NUM_DIGITS = 6
"""Number of significant digits of numbers in `predictions.csv`, unless a call needs more."""

EXACT_DIGITS = 17
"""Number of significant digits from which a number in double precision is read back exactly."""

EXACT_DIGITS = 17
"""Number of significant digits from which a number in double precision is read back exactly."""

SHOWN_REASONS = 8
"""Maximum number of reasons that a summary contains: the most frequent reasons."""

Perform = Callable[[Study, Path], Result]
"""Type of a job: a function that processes a study and writes its outputs into the given folder, which exists and is
empty.
"""


@dataclass(frozen=True)
class StatusRow:
    """One line of `status.csv`."""

    study: str
    status: Status
    code: str = ""
    reason: str = ""
    seconds: str = ""
    outputs: str = ""


class Worklist:
    """Studies and their outcomes, stored in a folder. An unfinished work list in that folder is continued."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for left in folder.glob(".s-*.partial"):  # output of the study in progress when the process was killed
            shutil.rmtree(left, ignore_errors=True)
        self.lines = {line["study"]: StatusRow(**line) for line in _read(folder / STATUS)}  # type: ignore[arg-type]
        done = {name for name, line in self.lines.items() if line.status == "done"}
        self._predictions = [row for row in _read(folder / PREDICTIONS) if row["study"] in done]

    def run(self, studies: Sequence[Study], perform: Perform) -> None:
        """Process every remaining study, with progress and the time left.

        A study that fails never stops the others.

        Raises:
            OutputError: If results cannot be written, for example on a full disk. The run ends, because later studies
                would fail too.
        """
        waiting = [study for study in studies if self.status(study.name) != "done"]
        if len(waiting) < len(studies):
            log.info("predict: %d of %d studies are done already", len(studies) - len(waiting), len(studies))
        is_shown = len(waiting) > 1
        for study in with_progress(waiting, total=len(waiting), title="predict", unit="study", is_shown=is_shown):
            started = time.monotonic()
            result = self._attempt(study, perform)
            self.record(study.name, result, seconds=time.monotonic() - started)

    def record(self, name: str, result: Result, seconds: float = 0.0) -> None:
        """Record the outcome of a study, and write the tables."""
        self.lines[name] = StatusRow(
            name, result.status, result.code, result.reason, f"{seconds:.2f}", ";".join(result.outputs)
        )
        self._predictions = [row for row in self._predictions if row["study"] != name]
        for finding in result.findings:
            values: tuple[float | str | None, ...] = (
                finding.probability,
                finding.volume_ml,
                finding.num_voxels,
                finding.value,
                finding.model,
                finding.operating_point,
                finding.threshold,
                finding.call,
            )
            digits = digits_of_call(finding)
            texts = ("" if v is None else f"{v:.{digits}g}" if isinstance(v, float) else str(v) for v in values)
            row = (name, finding.series, finding.label, *texts)
            self._predictions.append(dict(zip(PREDICTION_COLUMNS, row, strict=True)))
        self.write()

    def write(self) -> None:
        """Write both tables; predictions first, so that a study marked as done has its numbers."""
        predictions = sorted(self._predictions, key=lambda row: row["study"])
        # A table of an earlier version, whose run is resumed, lacks the last columns.
        values = [[row.get(column, "") for column in PREDICTION_COLUMNS] for row in predictions]
        write_text(self.folder / PREDICTIONS, csv_text(PREDICTION_COLUMNS, values))
        lines = sorted(self.lines.values(), key=lambda line: line.study)
        rows = [[getattr(line, column) for column in STATUS_COLUMNS] for line in lines]
        write_text(self.folder / STATUS, csv_text(STATUS_COLUMNS, rows))

    def status(self, name: str) -> Status | None:
        """Return the outcome of a study; None if the study is not processed yet."""
        line = self.lines.get(name)
        return None if line is None else line.status

    @property
    def counts(self) -> Counter[Status]:
        """Return the numbers of studies that are done, skipped and failed."""
        return Counter(line.status for line in self.lines.values())

    @property
    def lacking(self) -> list[str]:
        """Return a line for every study that is done but lacks an output that could not be written."""
        lines = self.lines.values()
        return [f"{line.study}: {line.reason}" for line in lines if line.status == "done" and LACKS in line.reason]

    @property
    def reasons(self) -> list[str]:
        """Return the most frequent reasons why studies were skipped, failed or lack an output.

        Each line states one reason, and the number of studies.
        """
        reasons = [
            (line.status, line.reason) for line in self.lines.values() if line.status != "done" or LACKS in line.reason
        ]
        return [
            f"{number} {status}: {reason}" for (status, reason), number in Counter(reasons).most_common(SHOWN_REASONS)
        ]

    @property
    def first_reason(self) -> str:
        """Return the reason that is recorded for the first study; empty without a reason or without studies."""
        return next((line.reason for line in self.lines.values()), "")

    @property
    def failures(self) -> list[str]:
        """Return a line for every failed study."""
        return [f"{line.study}: {line.reason}" for line in self.lines.values() if line.status == "failed"]

    def _attempt(self, study: Study, perform: Perform) -> Result:
        partial, final = self.folder / f".{study.name}.partial", self.folder / study.name
        try:
            _fresh(partial)
            result = attempt(lambda: perform(study, partial))
            if result.status == "done":
                shutil.rmtree(final, ignore_errors=True)
                partial.replace(final)
            return result
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def digits_of_call(finding: Finding) -> int:
    """Return the significant digits with which probability and threshold of a finding agree with its call.

    Without a call, these are `NUM_DIGITS`. Numbers that are equal after rounding need more digits, if one of them is
    below the other one.
    """
    probability, threshold = finding.probability, finding.threshold
    if probability is None or threshold is None:
        return NUM_DIGITS
    is_above = probability >= threshold

    def agrees(digits: int) -> bool:
        return (float(f"{probability:.{digits}g}") >= float(f"{threshold:.{digits}g}")) == is_above

    return next(digits for digits in range(NUM_DIGITS, EXACT_DIGITS + 1) if agrees(digits))


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


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
