"""Zip or tar archive (plain, gzip, bzip2 or xz), unpacked into a spool without trusting its contents.

Only regular files are unpacked, only below the spool, and only up to a size limit. The sizes that an archive declares
are ignored; unpacked bytes are counted instead.
"""

from __future__ import annotations

import errno
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal

from medvit.errors import DataError, SourceError, UnreadableError, UnsupportedError
from medvit.progress import BYTES, Progress
from medvit.records import Refusal
from medvit.sources import Local, SourceRequest, local_path
from medvit.sources.skip_rules import OPENED, UNOPENED, is_archive, is_hidden_below
from medvit.sources.spool import GIB, Spool

CHUNK_BYTES = 2**20
MAX_MEMBERS = 5_000_000
MAX_RATIO = 250
"""Largest compression ratio of an archive that unpacks to more than `RATIO_BYTES`.

DICOM compresses about 2:1, empty masks rarely 100:1.
"""
RATIO_BYTES = GIB
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError)

EntryKind = Literal["file", "folder", "link", "device", "encrypted"]


@dataclass(frozen=True)
class ArchiveMember:
    """One entry of an archive."""

    name: str
    kind: EntryKind
    changed_s: float
    """Modification time, in s since 1970; an update of a dataset compares it."""
    entry: zipfile.ZipInfo | tarfile.TarInfo


class Archive:
    """A zip or tar file."""

    name = "archive"

    def knows(self, location: str) -> bool:
        """Return whether the location is a file with an archive suffix."""
        path = local_path(location)
        return path is not None and path.is_file() and is_archive(path.name)

    def fetch(self, place: SourceRequest) -> Local:
        """Unpack the files of the archive; members that are not plain files, or are archives, are refused."""
        path = Path(place.location)
        if path.name.lower().endswith(UNOPENED):
            raise DataError(
                "the source is an archive of an unsupported kind; unpack it and give the folder, or pack it as "
                + ", ".join(OPENED)
            )
        state = path.stat()
        spool = place.spool(state.st_size, state.st_mtime_ns)
        with spool.closed_on_failure(), _explained(spool):
            return Unpacking(spool, MAX_RATIO * max(state.st_size, 1)).run(path)


class _TooMuchError(SourceError):
    """Error for an archive with more contents than any legitimate archive."""


class Unpacking:
    """Unpacking of one archive into a spool."""

    def __init__(self, spool: Spool, max_bytes: int) -> None:
        self._spool, self._max_bytes = spool, max(max_bytes, RATIO_BYTES)
        self._files: dict[PurePosixPath, Path] = {}
        self._folders: set[PurePosixPath] = set()
        self._refusals: list[Refusal] = []
        self._num_bytes = 0

    def run(self, path: Path) -> Local:
        """Unpack every member; return the files and refusals."""
        with path.open("rb") as raw, _opened(raw) as (members, reader), _progress(path) as progress:
            for number, member in enumerate(members):
                if number >= MAX_MEMBERS:
                    raise _TooMuchError(
                        f"the archive contains more than {MAX_MEMBERS} entries; split it into several archives, or "
                        "unpack it and give the folder"
                    )
                self._take(member, reader)
                progress.update(max(0, raw.tell() - progress.n))
        if not self._files and not self._refusals:
            raise DataError("the archive contains no files; give source=PATH of an archive that contains images")
        return Local(self._spool.root, tuple(sorted(self._files.values())), tuple(self._refusals), self._spool)

    def _take(self, member: ArchiveMember, reader: zipfile.ZipFile | tarfile.TarFile) -> None:
        name = _safe_name(member.name)
        if member.kind == "folder" or (name is not None and is_hidden_below(name)):
            return
        reason = self._objection(member, name)
        if reason:
            self._refuse(UnsupportedError.code, reason, None if name in self._files or name in self._folders else name)
            return
        assert name is not None
        self._files[name] = self._spool.path(name)
        self._folders.update(name.parents)
        if self._spool.has(name):
            return
        try:
            with _stream(reader, member) as stream:
                self._write(stream, name, member.changed_s)
        except (SourceError, tarfile.TarError, OSError):
            raise  # the rest of a tar file cannot be located, and a full disk fails every file
        except (*BROKEN, RuntimeError):
            del self._files[name]
            self._refuse(UnreadableError.code, "a file of the archive is damaged and cannot be unpacked", name)

    def _objection(self, member: ArchiveMember, name: PurePosixPath | None) -> str:
        if name is None:
            return "its name in the archive leads out of it, or is not a file name"
        if member.kind != "file":
            return f"it is a {member.kind} in an archive; only plain files are accepted"
        if is_archive(name.name):
            return "an archive inside of an archive is not opened; unpack it, or give it as a source of its own"
        if name in self._files:
            return "a second file of the same name in an archive"
        if name in self._folders or any(parent in self._files for parent in name.parents):
            return "a file and a folder of one name in an archive, which cannot be both; rename one and pack it again"
        return ""

    def _refuse(self, code: str, reason: str, name: PurePosixPath | None) -> None:
        place = f".refused-{len(self._refusals):06d}" if name is None else name
        self._refusals.append(Refusal((self._spool.root / place,), code, reason))

    def _write(self, stream: IO[bytes], name: PurePosixPath, changed_s: float) -> None:
        with self._spool.part() as part:
            while chunk := stream.read(CHUNK_BYTES):
                self._num_bytes += len(chunk)
                if self._num_bytes > self._max_bytes:
                    raise _TooMuchError(
                        f"the archive unpacks to more than {MAX_RATIO} times its size, as archives made to fill disks "
                        "do; "
                        "if you trust it, unpack it and give the folder"
                    )
                part.write(chunk)
            part.keep(name, changed_s=changed_s)


def _safe_name(name: str) -> PurePosixPath | None:
    """Return the name of an archive member as a relative path.

    The result is None if the name is absolute, leads out of the folder, or is invalid.
    """
    text = name.replace("\\", "/")
    parts = PurePosixPath(text).parts
    if (
        not parts
        or text.startswith("/")
        or ".." in parts
        or "\0" in text
        or (len(parts[0]) == 2 and parts[0][1] == ":")
    ):
        return None
    if any(len(part.encode(errors="surrogateescape")) > 255 for part in parts):
        return None
    return PurePosixPath(*parts)


def _progress(path: Path) -> Progress:
    return Progress(path.stat().st_size, title="unpack", unit=BYTES)


@contextmanager
def _opened(raw: BinaryIO) -> Iterator[tuple[Iterator[ArchiveMember], zipfile.ZipFile | tarfile.TarFile]]:
    if zipfile.is_zipfile(raw):
        with zipfile.ZipFile(raw) as zipped:
            yield (_zip_member(info) for info in zipped.infolist()), zipped
    else:
        raw.seek(0)
        with tarfile.open(fileobj=raw, mode="r:*") as tar:
            yield (_tar_member(info) for info in tar), tar


def _zip_member(info: zipfile.ZipInfo) -> ArchiveMember:
    mode = info.external_attr >> 16
    kind: EntryKind = "folder" if info.is_dir() else "file"
    if stat.S_ISLNK(mode):
        kind = "link"
    elif info.flag_bits & 1:
        kind = "encrypted"
    try:
        changed = datetime(*info.date_time, tzinfo=UTC)
    except ValueError:  # months 0 and the like, from tools that do not write dates
        changed = datetime(1980, 1, 1, tzinfo=UTC)
    return ArchiveMember(info.filename, kind, changed.timestamp(), info)


def _tar_member(info: tarfile.TarInfo) -> ArchiveMember:
    kind: EntryKind = "file" if info.isreg() else "folder" if info.isdir() else "device"
    return ArchiveMember(info.name, "link" if info.issym() or info.islnk() else kind, max(0.0, float(info.mtime)), info)


@contextmanager
def _stream(reader: zipfile.ZipFile | tarfile.TarFile, member: ArchiveMember) -> Iterator[IO[bytes]]:
    if isinstance(reader, zipfile.ZipFile):
        assert isinstance(member.entry, zipfile.ZipInfo)
        with reader.open(member.entry) as stream:
            yield stream
    else:
        assert isinstance(member.entry, tarfile.TarInfo)
        extracted = reader.extractfile(member.entry)
        assert extracted is not None, "a plain file has content"
        with extracted as stream:
            yield stream


@contextmanager
def _explained(spool: Spool) -> Iterator[None]:
    """Return a context that converts errors of an archive to errors with a message for the user.

    If the error is final, the files that were already unpacked are removed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the stage reports a full disk
        raise SourceError(f"the archive cannot be read: {error.strerror or 'it is damaged'}") from None
    except _TooMuchError:
        spool.discard()
        raise
    except BROKEN:
        spool.discard()
        raise SourceError("the archive is damaged or truncated; copy it again") from None


SOURCE = Archive()
