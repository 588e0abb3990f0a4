"""Journal of a delivery: every step of every object, on disk before the step is taken."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from medvit.errors import DataError

JOURNAL = "journal.jsonl"

DeliveryState = Literal["checked", "sending", "sent", "confirmed", "present", "held", "failed"]
"""State of an object. checked: it may be sent. sending: the transfer begins. sent: the archive accepted it. confirmed:
the archive lists it after the transfer. present: the archive had it before. held: it must not be sent, because the
study or the patient in the archive differs. failed: it was not delivered, or it is unknown whether it was.
"""
DELIVERED = ("confirmed", "present")


@dataclass(frozen=True)
class DeliveryStep:
    """One step of the delivery of an object; `object` is its name within the predictions."""

    object: str
    sha256: str
    state: DeliveryState
    code: str = ""
    reason: str = ""
    attempt: int = 0
    time: str = ""


class DeliveryJournal:
    """Steps of a delivery in a folder, in the order in which they were taken; only added to, never changed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL
        self._last = {step.object: step for step in _read(self._path)}

    def add(self, step: DeliveryStep) -> None:
        """Write a step to disk, with the time; return once it is there.

        Raises:
            OSError: If the disk is full.
        """
        step = DeliveryStep(**{**asdict(step), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        with self._path.open("ab") as file:
            file.write(json.dumps(asdict(step)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._last[step.object] = step

    def last(self, name: str) -> DeliveryStep | None:
        """Return the last step of an object; None if nothing is recorded."""
        return self._last.get(name)

    @property
    def steps(self) -> list[DeliveryStep]:
        """Return the last step of every object, sorted by name."""
        return [self._last[name] for name in sorted(self._last)]

    @property
    def counts(self) -> Counter[DeliveryState]:
        """Return the numbers of objects by their last state."""
        return Counter(step.state for step in self._last.values())


def _read(path: Path) -> list[DeliveryStep]:
    """Return the steps of a journal; a last line that is incomplete, because the process was killed, is removed.

    Raises:
        DataError: If another line is damaged.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    try:
        return [DeliveryStep(**json.loads(line)) for line in whole.splitlines()]
    except (ValueError, TypeError):
        raise DataError(f"{path} is damaged and cannot be read; remove the folder and deliver again") from None
