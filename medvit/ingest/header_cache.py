"""Header cache: file headers from the last scan of a source, so that unchanged files are not read again.

Headers contain patient names and identifiers. The cache is therefore stored only next to the site's key, in
`KEY.headers/DATASET.jsonl` with file mode 0600. If it is lost, headers are read again, which only takes time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from medvit import readers
from medvit.errors import DataError, OutputError
from medvit.files.private import write_private
from medvit.readers import ScannedFile
from medvit.records import Refusal

log = logging.getLogger("medvit")

STATE_BYTES = 64
"""Length of a state in hexadecimal digits."""


class HeaderCache:
    """Cache of file headers, each of which is parsed only when it is recalled.

    `lines` maps the state of a file (a hash) to its headers as JSON.
    """

    def __init__(self, lines: Mapping[str, bytes]) -> None:
        self._lines = lines

    def __len__(self) -> int:
        """Number of cached files."""
        return len(self._lines)

    def recall(self, path: Path, state: str) -> ScannedFile | None:
        """Return the cached header of a file in the given state; None if it is not cached."""
        line = self._lines.get(state)
        if line is None:
            return None
        try:
            name, _, content = line.decode().partition(" ")
            refusal, headers = _adapter(name).validate_json(content)
        except (ValueError, DataError):
            return None
        if refusal is not None:
            return ScannedFile(path, name, refusal=Refusal((path,), *refusal))
        return ScannedFile(path, name, tuple(replace(one, file=path) for one in headers))


def lines(key_file: Path, dataset: str) -> dict[str, bytes]:
    """Return the cached headers of a dataset: a mapping from the state of a file (a hash) to a line of JSON.

    The hash covers the size and the modification time of the file, among others. The result is empty if the cache is
    missing or damaged.
    """
    try:
        whole = place(key_file, dataset).read_bytes().splitlines()
        return {line[:STATE_BYTES].decode("ascii"): line[STATE_BYTES + 1 :] for line in whole}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError):
        log.warning("the header cache of this dataset cannot be read; every header is read again")
        return {}


def write(key_file: Path, dataset: str, seen: Iterable[tuple[str, ScannedFile]]) -> None:
    """Replace the cache by the given headers, each with the state of its file.

    Raises:
        OutputError: If the cache cannot be written.
    """
    kept = (b"%s %s\n" % (state.encode("ascii"), _line(one)) for state, one in seen)
    try:
        write_private(place(key_file, dataset), kept)
    except OSError as error:
        raise OutputError(f"the header cache cannot be written: {error.strerror}; give another key=...") from None


def forget(key_file: Path, dataset: str) -> None:
    """Remove the header cache of a dataset.

    Raises:
        OutputError: If the cache cannot be removed.
    """
    try:
        place(key_file, dataset).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"the header cache beside the key cannot be removed: {error.strerror}") from None


def _line(seen: ScannedFile) -> bytes:
    refusal = None if seen.refusal is None else (seen.refusal.code, seen.refusal.reason)
    try:
        content = _adapter(seen.reader).dump_json((refusal, seen.headers))
    except PydanticSerializationError:  # a path that is not UTF-8; `recall` puts it back
        nameless = tuple(replace(one, file=Path()) for one in seen.headers)
        content = _adapter(seen.reader).dump_json((refusal, nameless))
    return seen.reader.encode() + b" " + content


@cache
def _adapter(reader: str) -> TypeAdapter[Any]:
    known = readers.reader(reader) if reader else None
    header_type: Any = known.header_type if isinstance(known, readers.SeriesReader) else Any
    return TypeAdapter(tuple[tuple[str, str] | None, tuple[header_type, ...]])


def place(key_file: Path, dataset: str) -> Path:
    """Return the path of the header cache of a dataset."""
    key_file = key_file.expanduser()
    return key_file.with_name(f"{key_file.name}.headers") / f"{dataset}.jsonl"
