"""Journal of a run: its records, stored in the folder of the run until a store has received them.

Each line is one record, in JSON. Figures, texts and files from other folders are stored next to the journal. For files
in the run's folder, only the path relative to this folder is recorded. A separate file records how much a store has
received.
"""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medvit.errors import TrackingError
from medvit.files.atomic import write_text

FOLDER = ".tracking"
LINES, STATE, FILES = "journal.jsonl", "state.json", "files"
FILE = b'{"kind": "file"'
"""Beginning of a line for files, which are sent separately: they take long and may go to another place."""
READ_AT_ONCE = 2000
CHILD = "child"
"""Key in the records of a child run, with its identifier within the journal."""

Record = dict[str, Any]


@dataclass(frozen=True)
class State:
    """Store to which a journal is sent, and how much of the journal the store has received.

    `records` and `files` are positions in bytes up to which records and files were sent.
    """

    uri: str
    experiment: str
    run_id: str | None = None
    records: int = 0
    files: int = 0
    postponed: tuple[int, ...] = ()
    """Positions of lines for files that the store could not receive."""
    children: Mapping[str, str] = field(default_factory=dict)
    """Key of a child run -> its ID in the store."""


class Journal:
    """Journal in the folder of a run; the folder may be renamed while the journal is open."""

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
        """Length of the journal in bytes."""
        return self._stream.tell()

    @contextmanager
    def moving_to(self, folder: Path) -> Iterator[None]:
        """Return a context in which the run's folder is renamed while the journal remains open."""
        with self.lock:
            yield
            self.folder = folder

    def begin(self, stage: str, uri: str, experiment: str) -> None:
        """Begin a run in a store, or continue it."""
        self.append("run", stage=stage, key=self.key, uri=uri, experiment=experiment)

    def target(self) -> tuple[str, str]:
        """Return the URI of the store and the experiment that the journal was last written for.

        Raises:
            TrackingError: If the journal does not contain a run.
        """
        runs = [record for record, _, _ in self.read(0) if record["kind"] == "run"]
        if not runs:
            raise TrackingError(f"{self.place} contains no record of a run; remove the file")
        return str(runs[-1]["uri"]), str(runs[-1]["experiment"])

    def append(self, kind: str, **content: Any) -> None:
        """Add a record of a kind with a given content."""
        line = json.dumps({"kind": kind, **content}).encode() + b"\n"
        with self.lock:
            self._stream.write(line)
            self._stream.flush()

    def keep(self, name: str) -> Path:
        """Return the path for a file to store next to the journal."""
        path = self.place / FILES / str(self.size) / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add_file(self, path: Path, folder: str, **content: Any) -> None:
        """Record a file, or all files of a folder; a file outside the run's folder is copied."""
        path, home = path.absolute(), self.folder.absolute()
        if path.is_relative_to(home):
            self.append("file", path=path.relative_to(home).as_posix(), folder=folder, **content)
            return
        kept = self.keep(path.name)
        if path.is_dir():
            shutil.copytree(path, kept)
        else:
            shutil.copy(path, kept)
        self.append("file", path=kept.relative_to(self.folder).as_posix(), folder=folder, **content)

    def read(self, start: int, *, files: bool = False) -> Iterator[tuple[Record, int, int]]:
        """Yield the records from byte `start` on, each with its first and last byte position.

        With `files`, only the records of files are yielded.
        """
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
        """Return the state of sending; None before the store has answered for the first time."""
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
        """Return the final status of the last process that wrote to the journal; None if that process was killed."""
        records = (record for record, _, _ in self.read(0) if CHILD not in record)
        ends = [record.get("status") for record in records if record["kind"] in ("run", "status")]
        return ends[-1] if ends else None

    def close(self) -> None:
        """Close the file of the journal."""
        self._stream.close()

    def remove(self) -> None:
        """Remove the journal, because a store has received all of it."""
        self.close()
        shutil.rmtree(self.place, ignore_errors=True)

    def _end_whole(self) -> None:
        """Remove an incomplete last line, left by a killed process."""
        path = self.place / LINES
        if path.is_file():
            content = path.read_bytes()
            if not content.endswith(b"\n"):
                path.write_bytes(content[: content.rfind(b"\n") + 1])
