"""Text headers of MetaImage and NRRD: the fields that ITK ignores, and the files that contain the voxels.

Sources: MetaIO's MetaImage documentation; the definition of the NRRD file format (teem.sourceforge.net/nrrd).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medvit.errors import UnreadableError
from medvit.files.beside import named_beside

MAX_HEADER_BYTES = 2**20
"""Longest header in bytes, including the list of its data files."""
LIST = "LIST"
CHUNK_BYTES = 2**20
GZIP = ("gzip", "gz")

_PATTERN = re.compile(r"%[0-9]*d")


@dataclass(frozen=True)
class TextHeader:
    """Text header of an image: `fields`, keyed by lower-case name without blanks, and the files with the voxels.

    `data_files` is empty if the voxels follow the header in the same file. The voxels then start at byte `num_bytes`.
    """

    path: Path
    is_nrrd: bool
    fields: Mapping[str, str]
    num_bytes: int
    data_files: tuple[Path, ...]

    def get(self, *names: str) -> str:
        """Return the first of these fields that is present, or an empty text."""
        return next((self.fields[name] for name in names if name in self.fields), "")

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the header and its data files."""
        return (self.path, *self.data_files)


def read_text_header(path: Path) -> TextHeader:
    """Read the fields of a MetaImage or NRRD header, and the data files that it names.

    Raises:
        UnsupportedError: If a data file is outside the folder of the header.
        UnreadableError: If a data file is missing, or the file has no such header.
    """
    with path.open("rb") as stream:
        content = stream.read(MAX_HEADER_BYTES)
    return _nrrd(path, content) if content.startswith(b"NRRD") else _meta(path, content)


def check_num_bytes(header: TextHeader, promised: int) -> None:
    """Check that the files contain as many bytes of voxels as the header declares (`promised`).

    Raises:
        UnreadableError: If there are fewer or more bytes: a reader would cut off or shift voxels.
    """
    held = _held_bytes(header, promised)
    if held is not None and held != promised:
        short = "it is cut short" if held < promised else "the position of the voxels in them is unknown"
        more = "at least " if held > promised and _encoding(header) not in ("raw", "") else ""
        raise UnreadableError(
            f"the header declares {promised} bytes of voxels, the file contains {more}{held}; {short}"
        )


def _nrrd(path: Path, content: bytes) -> TextHeader:
    end = re.search(rb"\r?\n\r?\n", content)
    text = content[: end.start() if end else len(content)].decode("latin-1")
    fields, rest = {}, list[str]()
    lines = text.splitlines()
    for number, line in enumerate(lines[1:], 1):
        name, separator, value = line.partition(":")
        if not separator or line.startswith("#") or value.startswith("="):
            continue
        fields[name.strip().lower().replace(" ", "")] = value.strip()
        if name.strip().lower().replace(" ", "") == "datafile" and value.split()[:1] == [LIST]:
            rest = lines[number + 1 :]
            break
    names = _names(fields.get("datafile", ""), rest)
    return TextHeader(
        path, True, fields, end.end() if end else len(content), tuple(named_beside(path, n) for n in names)
    )


def _meta(path: Path, content: bytes) -> TextHeader:
    last = re.search(rb"^[ \t]*ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*)(?:\r?\n|$)", content, re.MULTILINE)
    if last is None:
        raise UnreadableError("the header of a MetaImage lacks its last field, ElementDataFile; the file is damaged")
    fields = {}
    for line in content[: last.start()].decode("latin-1").splitlines():
        name, separator, value = line.partition("=")
        if separator:
            fields[name.strip().lower()] = value.strip()
    named = last[1].decode("latin-1").strip()
    rest = content[last.end() :].decode("latin-1").splitlines() if named.split()[:1] == [LIST] else []
    names = [] if named.upper() == "LOCAL" else _names(named, rest)
    return TextHeader(path, False, fields, last.end(), tuple(named_beside(path, name) for name in names))


def _names(named: str, rest: list[str]) -> list[str]:
    """Return the names of the data files: one name, a list after the header, or a pattern with first, last and step."""
    if named.split()[:1] == [LIST]:
        return [line.strip() for line in rest if line.strip()]
    pattern, *numbers = named.split() if _PATTERN.search(named) else [named]
    if numbers:
        if not all(re.fullmatch(r"[+-]?\d{1,6}", number) for number in numbers):
            raise UnreadableError(
                "the header names its data files by a pattern whose first, last and step are not whole numbers; the "
                "header is damaged"
            )
        first, last, step = (
            (*map(int, numbers[:3]), 1)[:3] if len(numbers) > 1 else (int(numbers[0]), int(numbers[0]), 1)
        )
        return [pattern % number for number in range(first, last + 1, max(step, 1))]
    return [named] if named else []


def _encoding(header: TextHeader) -> str:
    if header.is_nrrd:
        return header.get("encoding").lower()
    if header.get("binarydata").lower() in ("false", "0"):
        return "text"
    return "gzip" if header.get("compresseddata").lower() in ("true", "1") else "raw"


def _held_bytes(header: TextHeader, promised: int) -> int | None:
    """Return the number of bytes of voxels in the data files; None if they are not counted.

    Voxels are counted if they are uncompressed, or if they are gzip-compressed in one file. Compressed ones are counted
    only up to one byte more than `promised`.
    """
    encoding = _encoding(header)
    skipped = int(header.get("byteskip", "headersize") or 0)
    if encoding == "raw":
        size = sum(file.stat().st_size for file in header.data_files or (header.path,))
        if skipped == -1:  # the voxels are the last bytes
            return min(size, promised)
        attached = 0 if header.data_files else header.num_bytes
        is_from_start = not header.is_nrrd and skipped > 0
        each = skipped * max(1, len(header.data_files)) + (0 if is_from_start else attached)
        return size - each - _line_bytes(header)
    if encoding not in GZIP or len(header.data_files) > 1:
        return None
    with (header.data_files or (header.path,))[0].open("rb") as stream:
        stream.seek(0 if header.data_files else header.num_bytes)
        return _inflated_bytes(stream, promised + max(skipped, 0)) - max(skipped, 0)


def _line_bytes(header: TextHeader) -> int:
    """Return the number of bytes in the lines that precede the voxels of each file."""
    num_lines = int(header.get("lineskip") or 0) if header.is_nrrd else 0
    total = 0
    for file in (header.data_files or (header.path,)) if num_lines else ():
        with file.open("rb") as stream:
            stream.seek(0 if header.data_files else header.num_bytes)
            total += sum(len(stream.readline(MAX_HEADER_BYTES)) for _ in range(num_lines))
    return total


def _inflated_bytes(stream: BinaryIO, enough: int) -> int:
    count = 0
    try:
        for part in _unpacked(stream):
            count += len(part)
            if count > enough:
                break
    except (zlib.error, OSError, EOFError):
        raise UnreadableError(
            "the compressed voxels cannot be decompressed; the file is damaged or truncated"
        ) from None
    return count


def _unpacked(stream: BinaryIO) -> Iterator[bytes]:
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib
    while not unpack.eof and (packed := unpack.unconsumed_tail or stream.read(CHUNK_BYTES)):
        yield unpack.decompress(packed, CHUNK_BYTES)
    yield unpack.flush()
