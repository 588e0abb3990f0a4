"""Audit trail of the service: an append-only file that tells what happened to each study, without names of patients.

Each line has the hash of the previous line, so that a changed or removed line is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Literal

from medvit.files.private import OWNER_FILE

AUDIT = "audit.jsonl"
AuditEvent = Literal[
    "started", "stopped", "received", "held", "predicted", "sent", "seen", "deleted", "released", "retried", "reloaded"
]
"""What happened. received: a study is complete. held: it waits for a person. seen: a person opened a page."""


class AuditTrail:
    """Audit trail in a folder.

    Raises:
        OSError: If a line cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / AUDIT
        self._lock = threading.Lock()
        self._path.touch(OWNER_FILE)
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):  # the service was killed while it wrote
            os.truncate(self._path, len(whole))
        lines = whole.splitlines()
        self._previous = digest_of_line(lines[-1]) if lines else ""
        self.is_intact = is_intact(self._path)
        """Whether each line has the hash of its predecessor."""

    def add(self, event: AuditEvent, study: str = "", **details: str | int) -> None:
        """Add a line; return once it is on disk. The details contain pseudonyms only."""
        with self._lock:
            line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, "study": study, **details}
            text = json.dumps({**line, "previous": self._previous}).encode()
            with self._path.open("ab") as file:
                file.write(text + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self._previous = digest_of_line(text)


def is_intact(path: Path) -> bool:
    """Return whether each line of an audit trail has the hash of the line before it."""
    previous = ""
    for line in path.read_bytes().splitlines():
        try:
            if json.loads(line)["previous"] != previous:
                return False
        except (ValueError, KeyError, TypeError):
            return False
        previous = digest_of_line(line)
    return True


def digest_of_line(line: bytes) -> str:
    """Return the hash of a line of an audit trail."""
    return hashlib.sha256(line).hexdigest()
