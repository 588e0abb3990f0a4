"""Journal of a run: its records, in its folder, until a store has received them.

A line is one record, in JSON. Pictures and texts, and files from elsewhere, are stored beside it; files of the run's
folder are named by their place in it. A separate file records how much a store has received.
"""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medvit.errors import TrackingError
from medvit.files.atomic import write_text

FOLDER = ".tracking"
LINES, STATE, FILES = "journal.jsonl", "state.json", "files"
FILE = b'{"kind": "file"'
"""Beginning of a line for files, which are sent separately: they take long and may go to another place."""
READ_AT_ONCE = 2000

Record = dict[str, Any]


@dataclass(frozen=True)
class State:
    """Store of a journal, and how many bytes of it that store has received; files and records separately."""

    uri: str
    experiment: str
    run_id: str | None = None
    records: int = 0
    files: int = 0
    postponed: tuple[int, ...] = ()
    """Positions of lines for files that the store could not receive."""


class Journal:
    """Journal in the folder of a run, which may be renamed while it is open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.place.mkdir(exist_ok=True)
        self._end_whole()
        self._stream = (self.place / LINES).open("ab")
        first = next((record for record, _, _ in self.read(0)), None)
        self.key = str(first["key"]) if first else uuid.uuid4().hex
        """Identifier of the run, by which it is found in a store."""

    @property
    def place(self) -> Path:
        """Path of the journal."""
        return self.folder / FOLDER

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._stream.tell()

    @contextmanager
    def moving_to(self, folder: Path) -> Iterator[None]:
        """Keep the journal while the run's folder is renamed."""
        with self.lock:
            yield
            self.folder = folder

    def begin(self, stage: str, uri: str, experiment: str) -> None:
        """Begin or continue a run in a store."""
        self.append("run", stage=stage, key=self.key, uri=uri, experiment=experiment)

    def target(self) -> tuple[str, str]:
        """Return the URI of the store and the experiment that it was last written for.

        Raises:
            TrackingError: If it holds no run.
        """
        runs = [record for record, _, _ in self.read(0) if record["kind"] == "run"]
        if not runs:
            raise TrackingError(f"{self.place} holds no record of a run; remove it")
        return str(runs[-1]["uri"]), str(runs[-1]["experiment"])

    def append(self, kind: str, **content: Any) -> None:
        """Add a record."""
        line = json.dumps({"kind": kind, **content}).encode() + b"\n"
        with self.lock:
            self._stream.write(line)
            self._stream.flush()

    def keep(self, name: str) -> Path:
        """Return the path for a file stored beside the journal."""
        path = self.place / FILES / str(self.size) / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add_file(self, path: Path, folder: str) -> None:
        """Record a file, or a folder of files; one outside the run's folder is copied."""
        path, home = path.absolute(), self.folder.absolute()
        if path.is_relative_to(home):
            self.append("file", path=path.relative_to(home).as_posix(), folder=folder)
            return
        kept = self.keep(path.name)
        if path.is_dir():
            shutil.copytree(path, kept)
        else:
            shutil.copy(path, kept)
        self.append("file", path=kept.relative_to(self.folder).as_posix(), folder=folder)

    def read(self, start: int, *, files: bool = False) -> Iterator[tuple[Record, int, int]]:
        """Yield records, or those for files, from a byte on, each with the bytes where it begins and ends."""
        with self.lock:
            stream = (self.place / LINES).open("rb")
        with stream:
            stream.seek(start)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                start += len(line)
                if line.startswith(FILE) == files:
                    yield json.loads(line), start - len(line), start

    def state(self) -> State | None:
        """Return what a store has received; None before its first answer."""
        path = self.place / STATE
        if not path.is_file():
            return None
        tree = json.loads(path.read_text(encoding="utf-8"))
        return State(**(tree | {"postponed": tuple(tree["postponed"])}))

    def write_state(self, state: State) -> None:
        """Replace the state."""
        with self.lock:
            write_text(self.place / STATE, json.dumps(asdict(state)))

    def path_of(self, record: Record) -> Path:
        """Return the present location of the file of a record."""
        with self.lock:
            return self.folder / str(record["path"])

    def status(self) -> str | None:
        """Return how the run ended that wrote last; None if it was killed."""
        ends = [record.get("status") for record, _, _ in self.read(0) if record["kind"] in ("run", "status")]
        return ends[-1] if ends else None

    def close(self) -> None:
        """Close its file."""
        self._stream.close()

    def remove(self) -> None:
        """Remove the journal: a store has received all of it."""
        self.close()
        shutil.rmtree(self.place, ignore_errors=True)

    def _end_whole(self) -> None:
        """Remove an incomplete last line of a killed process."""
        path = self.place / LINES
        if path.is_file():
            content = path.read_bytes()
            if not content.endswith(b"\n"):
                path.write_bytes(content[: content.rfind(b"\n") + 1])
