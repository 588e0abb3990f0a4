"""Private folder for files on their way from a source to a stage.

When a file is complete, it gets its final name, and a line with its size is added to the record of the spool. Files
that are both on disk and in the record are not fetched again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from medvit.errors import ConfigError, OutputError, SourceError

OWNER_ONLY = 0o700
GIB = 2**30


class Spool:
    """Private folder with the files of one source, for one state of the source.

    The spool is thread-safe, and locked against other processes.
    """

    def __init__(self, folder: Path, *, is_kept: bool, max_gib: float) -> None:
        self._folder, self._is_kept, self._max_gib = folder, is_kept, max_gib
        self.root = folder / "files"
        """Folder of the files."""
        self._parts = folder / "parts"
        self._lock = threading.Lock()
        self._guard = _locked(folder / "lock")
        shutil.rmtree(self._parts, ignore_errors=True)  # partial files of an earlier run
        for path in (self.root, self._parts):
            path.mkdir(exist_ok=True)
        self._book = (folder / "whole.jsonl").open("a+", encoding="utf-8")
        self._sizes = _read(self._book)
        self._num_bytes = sum(self._sizes.values())

    @classmethod
    def open(cls, parent: Path, facts: tuple[object, ...], *, is_kept: bool, max_gib: float) -> Spool:
        """Return the spool below `parent` that `facts` identify, locked for this process.

        Raises:
            ConfigError: If the spool belongs to another user, or if another run uses it.
            OutputError: If the spool cannot be created.
        """
        digest = hashlib.sha256(json.dumps([str(fact) for fact in facts]).encode()).hexdigest()[:16]
        folder = parent / f"medvit-{digest}"
        try:
            parent.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
            folder.mkdir(mode=OWNER_ONLY, exist_ok=True)
            if folder.stat().st_uid != os.geteuid():
                raise ConfigError("the spool belongs to another user; give another folder as retrieve.spool=...")
            folder.chmod(OWNER_ONLY)
            return cls(folder, is_kept=is_kept, max_gib=max_gib)
        except OSError as error:
            raise OutputError(
                f"the spool for fetched files cannot be created: {error.strerror}; give another retrieve.spool=..."
            ) from None

    def path(self, name: PurePosixPath) -> Path:
        """Return the path of a relative name in the spool, whether the file exists or not."""
        return self.root.joinpath(*name.parts)

    def has(self, name: PurePosixPath) -> bool:
        """Return whether the file is in the spool and complete."""
        size = self._sizes.get(name.as_posix())
        try:
            return size is not None and self.path(name).stat().st_size == size
        except OSError:
            return False

    @contextmanager
    def closed_on_failure(self) -> Iterator[None]:
        """Return a context that releases the spool for other runs if the fetch fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    @contextmanager
    def part(self) -> Iterator[SpooledFile]:
        """Return a context with a file to write, which is removed at the end unless `keep` gave it a name.

        Raises:
            SourceError: If all files together exceed the limit.
        """
        handle, name = tempfile.mkstemp(dir=self._parts)
        path = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield SpooledFile(path, stream, self._count, self._adopt)
        finally:
            path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove all files unless they are to be kept, and release the spool."""
        if not self._is_kept:
            self._sizes.clear()
        self.close()

    def close(self) -> None:
        """Release the spool; remove it if it is empty."""
        if self._book.closed:
            return
        self._book.close()
        self._guard.close()
        if not self._sizes:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._remove_parent_if_empty()

    def _remove_parent_if_empty(self) -> None:
        parent = self._folder.parent
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self._num_bytes += num_bytes
            if self._num_bytes > self._max_gib * GIB:
                raise SourceError(
                    f"the source contains more than {self._max_gib:g} GiB; request less, or raise retrieve.max_gib"
                )

    def _adopt(self, part: Path, name: PurePosixPath, size: int) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, path)
        with self._lock:
            self._sizes[name.as_posix()] = size
            self._book.write(json.dumps([name.as_posix(), size]) + "\n")
            self._book.flush()


class SpooledFile:
    """Open file in a spool, for writing."""

    def __init__(
        self,
        path: Path,
        stream: BinaryIO,
        count: Callable[[int], None],
        adopt: Callable[[Path, PurePosixPath, int], None],
    ) -> None:
        self.path, self._stream, self._count, self._adopt = path, stream, count, adopt
        self.num_bytes = self._checksum = 0

    def write(self, content: bytes) -> None:
        """Append bytes."""
        self._count(len(content))
        self.num_bytes += len(content)
        self._checksum = zlib.crc32(content, self._checksum)
        self._stream.write(content)

    def flush(self) -> None:
        """Make the written bytes readable for other readers of `path`."""
        self._stream.flush()

    def keep(self, name: PurePosixPath, *, changed_s: float | None = None) -> None:
        """Move the complete file to its final `name` in the spool, and record it as complete.

        `changed_s` becomes the modification time of the file. If `changed_s` is unset, as for files from servers, the
        modification time is made from a checksum of the content. If a file is fetched again, the same content thus
        counts as unchanged, and other content as changed.
        """
        self._stream.close()
        changed_s = self._checksum & 0x7FFFFFFF if changed_s is None else changed_s  # 31 bits fit any file system
        os.utime(self.path, (changed_s, changed_s))
        self._adopt(self.path, name, self.num_bytes)


_held: dict[Path, IO[str]] = {}
"""Locks of this process. A later run in the process takes them over, because a failed run may not have released them.
"""


def _locked(path: Path) -> IO[str]:
    if path in _held:
        _held.pop(path).close()
    guard = path.open("w", encoding="utf-8")
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        guard.close()
        raise ConfigError(
            "another run is fetching the same source into the same spool; wait until it has ended, or give another "
            "retrieve.spool=..."
        ) from None
    _held[path] = guard
    return guard


def _read(book: IO[str]) -> dict[str, int]:
    """Return the recorded size of each file; a truncated last line, left by a killed run, is removed."""
    book.seek(0)
    content = book.read()
    whole = content.rpartition("\n")[0]
    if len(whole) + 1 < len(content):
        book.seek(0)
        book.truncate()
        book.write(f"{whole}\n" if whole else "")
        book.flush()
    return dict(json.loads(line) for line in whole.splitlines())
